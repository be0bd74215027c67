"""`evenmoe top`: what it shows of a server, at any width, and what it says when there is nothing to show."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from evenmoe.serving.config import RoutingConfig, ServingConfig
from evenmoe.serving.monitor.figures import figures_between
from evenmoe.serving.monitor.frame import frame, one_line
from evenmoe.serving.monitor.heat import fit_heat
from evenmoe.serving.monitor.scrape import ScrapeError
from evenmoe.serving.monitor.watch import View, Watch
from evenmoe.serving.observation.collector import metrics_page
from tests.serving.monitor.metrics_server import MetricsServer
from tests.serving.monitor.test_figures import scraped, told
from tests.serving.observation.counting import Counting
from tests.serving.observation.test_collector import SCHEDULING, MemorySource, full_source


def drawn(view, width=100, height=None):
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(frame(view, width=width, height=height))
    return capture.get()


def view_of(source):
    figures = figures_between(None, scraped(source))
    return View(url="http://a:1", since_start=figures, recent=figures)


def big(num_layers=40, num_experts=64, num_devices=32):
    counting = Counting(num_layers=num_layers, num_experts=num_experts, num_devices=num_devices)
    rng = np.random.default_rng(0)
    for _ in range(3):
        before_LE = rng.integers(0, 30, (num_layers, num_experts)) * 2
        counting.step(before_LE, np.minimum(before_LE, 20))
    return view_of(told(counting, SCHEDULING))


def test_a_frame_by_hand():
    text = drawn(view_of(full_source()))
    assert "straggler factor 0.90 (1.40 as asked)" in text
    assert "busiest expert 1.57 (1.80 as asked) × mean" in text
    assert "dropped 30.00 %" in text
    assert "4 waiting   3 running   passed over 3.50 times on average" in text
    assert "prediction error plain 0.250, corrected 0.125" in text
    # layer 0: devices ran 4 and 8 of an even 10, the busiest 10 in all, experts 3 + 3 over 1.5 + 1.5, 12 of 20 kept
    assert "0       0.40  0.80       1.00    2.00   40.0 %" in text
    assert "1       0.80  0.80       0.80    1.25   20.0 %" in text
    assert "8 requests, 10 tokens, since the server's start" in text


def test_one_device_says_why_there_is_no_map():
    counting = Counting(num_devices=1)
    counting.step([[4, 0, 0, 0], [1, 1, 1, 1]])
    text = drawn(view_of(told(counting)))
    assert "routing.num_devices" in text
    assert "straggler factor 1.00 " in text
    assert "4.00" in text


def test_nothing_told_yet():
    source = MemorySource(ServingConfig(routing=RoutingConfig(num_devices=4)), scheduling=SCHEDULING)
    text = drawn(view_of(source))
    assert "No loads told yet: the server tells them as sums over at least 8 requests." in text
    assert "4 waiting" in text
    assert "nan" not in text
    assert "no loads told yet; 4 waiting, 3 running" == one_line(view_of(source))


def test_the_engines_own_scheduler():
    assert "scheduler is the engine's own" in drawn(view_of(MemorySource()))


@pytest.mark.parametrize("width", [20, 40, 79, 100, 200])
def test_no_line_is_wider_than_the_terminal(width):
    for line in drawn(big(), width).splitlines():
        assert len(line) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 30), (200, 60), (60, 30)])
def test_the_frame_fits_the_terminal(width, height):
    text = drawn(big(), width, height)
    assert len(text.splitlines()) <= height
    assert "straggler factor" in text


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 120), st.integers(1, 20))
def test_folding_keeps_the_worst_of_every_place(num_layers, num_devices, columns, lines):
    load_LD = np.random.default_rng(num_layers * 41 + num_devices).random((num_layers, num_devices)) * 3
    heat = fit_heat(load_LD, [str(i) for i in range(num_layers)], columns=columns, lines=lines)
    assert heat.load_LD.shape[0] <= lines
    assert heat.load_LD.shape[1] * heat.cell <= columns
    assert len(heat.names) == heat.load_LD.shape[0]
    for layer in range(num_layers):
        for device in range(num_devices):
            cell = heat.load_LD[layer // heat.per_line, device // heat.per_column]
            assert cell >= load_LD[layer, device]
    assert heat.load_LD.max() == load_LD.max()
    for index in range(heat.load_LD.shape[0]):
        assert heat.line(index).cell_len == heat.load_LD.shape[1] * heat.cell


class Scripted:
    """Answers each look with the next of its answers."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, url):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def counted(steps, load=4):
    counting = Counting()
    for _ in range(steps):
        counting.step(np.full((2, 4), load))
    return told(counting, SCHEDULING)


def test_a_watch_keeps_the_last_move():
    ask = Scripted(
        scraped(counted(2), 0.0), scraped(counted(2), 1.0), scraped(counted(5), 2.0), scraped(counted(5), 3.5)
    )
    watch = Watch("http://a", ask)
    assert watch.look().told is None
    assert watch.look().told is None
    third = watch.look()
    assert third.told is not None
    assert third.told.loads is not None
    assert (third.told.loads.num_steps, third.told.seconds, third.told_age_s) == (3, 2.0, 0.0)
    fourth = watch.look()
    assert fourth.told is third.told
    assert fourth.told_age_s == 1.5
    assert fourth.recent.loads is None
    assert "of 2.0 s, told 2 s ago" in drawn(fourth)
    assert "1.5 requests/s" in drawn(fourth)


def test_a_server_that_goes_and_comes_back():
    gone = ScrapeError("no server answers at http://a/metrics: refused")
    ask = Scripted(scraped(counted(5), 0.0), gone, gone, scraped(counted(1), 3.0))
    watch = Watch("http://a", ask)
    watch.look()
    text = drawn(watch.look())
    assert "The server does not answer any more: no server answers at http://a/metrics: refused." in text
    assert "straggler factor 1.00" in text
    assert one_line(watch.look()).startswith("no answer: no server answers")
    back = watch.look()
    assert back.gone is None
    assert back.recent.restarted
    assert "started anew" in drawn(back)
    assert back.told is not None
    assert back.told.loads is not None
    assert back.told.loads.num_steps == 1


def test_the_first_look_must_succeed():
    with pytest.raises(ScrapeError, match="refused"):
        Watch("http://a", Scripted(ScrapeError("refused"))).look()


def test_once(evenmoe, tmp_path):
    with MetricsServer(metrics_page(full_source())).running() as url:
        status, out, err = evenmoe("top", url, "--once", "--json", tmp_path / "out" / "top.json")
    assert (status, err) == (0, "")
    assert "straggler factor 0.90" in out
    body = json.loads((tmp_path / "out" / "top.json").read_text())
    assert body["since_start"]["loads"]["straggler_factor"] == 0.9
    assert body["gone"] is None


def test_nothing_there_and_not_ours(evenmoe):
    status, _, err = evenmoe("top", "127.0.0.1:1", "--once")
    assert status == 2
    assert "no server answers at http://127.0.0.1:1/metrics" in err
    with MetricsServer(b"vllm_x 1.0\n").running() as url:
        status, _, err = evenmoe("top", url, "--once")
    assert status == 2
    assert "none of evenmoe" in err
    with MetricsServer(status=404).running() as url:
        status, _, err = evenmoe("top", url, "--once")
    assert status == 2
    assert "HTTP 404" in err


def interrupted_when(process, is_time, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not is_time():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return process.wait(30)


# Ctrl-C is ignored where the tests run in the background.
RUN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from evenmoe.cli.main import run
run()
"""


@pytest.mark.slow
def test_lines_where_the_output_is_no_terminal(tmp_path):
    server = MetricsServer(metrics_page(counted(2)))
    lines = []
    with server.running() as url:
        command = [
            sys.executable,
            "-c",
            RUN,
            "top",
            url,
            "--interval",
            "0.1",
        ]
        process = subprocess.Popen(
            [*command, "--json", str(tmp_path / "top.json")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        stream = process.stdout
        reader = threading.Thread(target=lambda: lines.extend(iter(stream.readline, "")), daemon=True)
        reader.start()

        def moved():
            if len(lines) >= 2:
                server.page = metrics_page(counted(3))
            return any("requests/s" in line for line in lines)

        try:
            assert interrupted_when(process, moved) == 0
        finally:
            process.kill()
        reader.join()
    assert "straggler factor 1.000, dropped 0.0 %; of 2 requests told before this view began" in lines[0]
    assert json.loads((tmp_path / "top.json").read_text())["told"]["loads"]["num_steps"] == 1


@pytest.mark.slow
def test_a_terminal_is_redrawn_and_outlives_the_server():
    server = MetricsServer(metrics_page(counted(2)))
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read():
        while True:
            try:
                shown.extend(os.read(ours, 4096))
            except OSError:
                return

    threading.Thread(target=read, daemon=True).start()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30"}
    with server.running() as url:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUN,
                "top",
                url,
                "--interval",
                "0.1",
            ],
            stdout=theirs,
            stdin=theirs,
            env=environment,
        )
        deadline = time.monotonic() + 60
        while b"straggler" not in shown:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    try:
        assert interrupted_when(process, lambda: b"does not answer any more" in shown) == 0
    finally:
        process.kill()
        os.close(theirs)
    assert b"\x1b[" in shown


def test_colours_are_readable_in_every_cell():
    heat = fit_heat(np.linspace(0, 3, 12).reshape(2, 6), ["0", "1"], columns=60, lines=2)
    assert "0.00" in heat.line(0).plain
    assert "3.00" in heat.line(1).plain
    assert {str(span.style).split()[0] for index in (0, 1) for span in heat.line(index).spans} == {
        "black",
        "white",
    }


def test_views_are_data():
    view = replace(view_of(full_source()), gone="away")
    assert json.loads(json.dumps(view.as_dict()))["gone"] == "away"
