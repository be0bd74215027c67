"""`evenmoe report --live`: one file, drawn from two looks at a server."""

import json
import re

import pytest

from evenmoe.reporting.server_report import server_report
from evenmoe.serving.monitor.figures import figures_between
from evenmoe.serving.observation.collector import metrics_page
from tests.serving.monitor.metrics_server import MetricsServer
from tests.serving.monitor.test_figures import scraped, told
from tests.serving.observation.counting import Counting
from tests.serving.observation.test_collector import MemorySource, full_source


def test_since_the_start(evenmoe, tmp_path):
    out, data = tmp_path / "new" / "now.html", tmp_path / "now.json"
    with MetricsServer(metrics_page(full_source())).running() as url:
        status, said, err = evenmoe("report", "--live", url, "--out", out, "--json", data)
    assert (status, err) == (0, "")
    assert str(out) in said
    page = out.read_text()
    assert "0.90 ×" in page
    assert "Since the server&#39;s start." in page
    assert page.count("<svg") == 2
    # one file: nothing is fetched, nothing runs
    assert not re.search(r"<script|<link|src=|@import|url\((?!#)", page)
    assert json.loads(data.read_text())["loads"]["straggler_factor"] == 0.9


def test_over_some_seconds(evenmoe, tmp_path, monkeypatch):
    import time

    counting = Counting()
    counting.step([[4, 0, 0, 0], [1, 1, 1, 1]])
    server = MetricsServer(metrics_page(told(counting)))

    def meanwhile(seconds):
        assert seconds == 7
        counting.step([[1, 1, 1, 1], [2, 2, 2, 2]])
        server.page = metrics_page(told(counting))

    monkeypatch.setattr(time, "sleep", meanwhile)
    with server.running() as url:
        status, _, _ = evenmoe("report", "--live", url, "--over", 7, "--out", tmp_path / "now.html")
    assert status == 0
    page = (tmp_path / "now.html").read_text()
    assert "1.00 ×" in page  # of the second step alone, which is even
    assert "these are of 1 requests, 3 tokens, 1 steps" in page


def test_nothing_told(evenmoe, tmp_path):
    with MetricsServer(metrics_page(MemorySource())).running() as url:
        status, _, err = evenmoe("report", "--live", url, "--out", tmp_path / "now.html")
    assert status == 0
    assert "sums over at least 8 requests" in err
    assert "none were told" in (tmp_path / "now.html").read_text()


def test_no_server(evenmoe, tmp_path):
    status, _, err = evenmoe("report", "--live", "127.0.0.1:1", "--out", tmp_path / "now.html")
    assert status == 2
    assert "no server answers" in err
    assert not (tmp_path / "now.html").exists()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([], "FOLDER"),
        (["folder", "--live", "http://a"], "--live"),
        (["--markdown", "--live", "http://a"], "--live"),
        (["folder", "--over", "3"], "--over"),
        (["folder", "--json", "x.json"], "--json"),
    ],
)
def test_settings_that_cannot_act_are_refused(evenmoe, arguments, field):
    status, _, err = evenmoe("report", *arguments)
    assert status == 2
    assert field in err


def test_the_same_figures_draw_the_same_bytes(tmp_path):
    figures = figures_between(None, scraped(full_source()))
    pages = [
        server_report(figures, "http://a", tmp_path / name).read_bytes() for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def test_one_device_needs_no_map(tmp_path):
    counting = Counting(num_devices=1)
    counting.step([[4, 0, 0, 0], [1, 1, 1, 1]])
    page = server_report(
        figures_between(None, scraped(told(counting))), "http://a", tmp_path / "a.html"
    ).read_text()
    assert page.count("<svg") == 1
    assert "Load of every device" not in page
