"""`evenmoe serve` at the command line: what a newcomer types wrong, and a whole run with a fake engine."""

import os
import re
import signal
import socket
import sys
import threading
import time

import pytest

from evenmoe.serving.launch import command, engines
from evenmoe.serving.launch.command import EngineCommand
from tests.serving.launch.supervised import FAKE_ENGINE


@pytest.fixture(autouse=True)
def _transformers_engine(monkeypatch):
    """As if transformers' engine were installed, and vLLM not."""
    monkeypatch.setattr(engines, "missing", lambda engine: ["vllm"] if engine == "vllm" else [])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bundled:texts"], r"model = 'bundled:texts' .*bundled:text"),
        (["/no/such/model"], r"model = '/no/such/model' .*no such folder"),
        (["bundled:text", "--engine", "sglang"], r"engine = 'sglang' .*vllm, transformers"),
        (["bundled:text", "--engine", "vllm"], r"engine = 'vllm' .*evenmoe\[serve\]"),
        (["bundled:text", "--policy", "drop"], r"'drop' .*token_drop"),
        (["bundled:text", "--gamma", "-1"], r"gamma = -1\.0"),
        (["bundled:text", "--scheduler", "auto"], r"scheduler = 'auto' .*--prior FILE"),
        (["bundled:text", "--config", "none.toml"], r"No such file .*none\.toml"),
        (["bundled:text", "--placement", "none.json"], r"none\.json"),
        (["bundled:text", "--scheduler", "auto", "--prior", "none.npz"], r"none\.npz"),
        (["bundled:text", "--scheduler", "auto", "--prior", __file__], r"test_serve_flags\.py"),
        (["bundled:text", "stray"], r"argument = 'stray' .*after --"),
        (["bundled:text", "--", "--enforce-eager"], r"arguments after -- .*only vLLM"),
        (["bundled:text", "--host", "192.0.2.1"], r"host = '192\.0\.2\.1'"),
    ],
)
def test_what_is_typed_wrong_is_named_before_anything_starts(evenmoe, arguments, named):
    status, _out, err = evenmoe("serve", *arguments)
    assert re.search(named, " ".join(err.split())), err
    assert status == 2


def test_a_taken_port_is_named_before_anything_starts(evenmoe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = evenmoe("serve", "bundled:text", "--port", port)
    assert status == 2
    assert f"port = {port}" in err


def test_a_dry_run_prints_the_command_alone(evenmoe):
    status, out, err = evenmoe("serve", "bundled:text", "--dry-run", "--api-key", "s3cret")
    assert status == 0
    assert "evenmoe.serving.transformers.server --options" in out
    assert "Engine: transformers (vLLM is not installed)" in err
    assert "s3cret" not in out + err


def test_a_server_open_to_others_without_a_key_is_warned_about(evenmoe):
    warning = "can be reached from other machines"
    assert warning in evenmoe("serve", "bundled:text", "--dry-run", "--host", "0.0.0.0", "--port", 0)[2]
    with_key = evenmoe(
        "serve", "bundled:text", "--dry-run", "--host", "0.0.0.0", "--port", 0, "--api-key", "k"
    )
    assert warning not in with_key[2]


@pytest.fixture
def fake(monkeypatch):
    """Start the fake engine where the real one would be started."""

    def fake_command(*modes):
        def engine_command(options, served, port, scratch):
            assert scratch.is_dir()
            return EngineCommand(arguments=(sys.executable, "-S", str(FAKE_ENGINE), str(port), *modes))

        monkeypatch.setattr(command, "engine_command", engine_command)

    return fake_command


def test_a_run_from_loading_to_stopped(evenmoe, fake, monkeypatch):
    from evenmoe.cli import serve

    fake("slow-start")
    announce = serve._announce

    def announced(*arguments):
        announce(*arguments)
        threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGTERM))).start()

    monkeypatch.setattr(serve, "_announce", announced)
    before = signal.getsignal(signal.SIGTERM)
    status, _, err = evenmoe("serve", "bundled:text", "--port", 0)
    assert status == 0, err
    url = re.search(r"Loading bundled:text; it will listen on (http://127\.0\.0\.1:\d+)", err)[1]
    assert re.search(rf"Ready after \d+ s: {url} \(model bundled:text\)", err)
    assert f"curl {url}/v1/completions" in err
    assert f"evenmoe top {url}" in err
    assert err.rstrip().endswith("evenmoe: Stopped.")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_placement_says_how_many_devices_there_are(evenmoe, tmp_path):
    from evenmoe.placement import Placement, write_placement

    file = tmp_path / "placement.json"
    write_placement(Placement.of([[0] * 16 + [1] * 16] * 4, 2), file)
    arguments = ("serve", "bundled:text", "--placement", file, "--dry-run", "--port", 0)
    assert evenmoe(*arguments)[0] == 0
    assert evenmoe(*arguments, "--devices", 2)[0] == 0
    status, _, err = evenmoe(*arguments, "--devices", 4)
    assert status == 2
    assert "devices = 4 is not allowed: the 2 of" in " ".join(err.split())


def test_an_engine_that_dies_is_status_1_with_its_reason(evenmoe, fake):
    fake("dies-at-start")
    status, _, err = evenmoe("serve", "bundled:text", "--port", 0)
    assert status == 1
    assert "The engine ended before it was ready: it exited with status 3." in err
    assert "ValueError: no such model" in err.splitlines()[-1]
