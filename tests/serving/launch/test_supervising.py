"""An engine's life under the supervisor, with a fake engine in real processes: ready, stopped, dead, orphaned."""

import os
import signal
import time

import pytest

from evenmoe.serving.launch.process import processes_of
from tests.serving.launch.supervised import Supervised, supervised

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are found through /proc")


def gone(group: int, timeout_s: float = 10.0) -> bool:
    """Whether every process of the group ends within the time."""
    deadline = time.monotonic() + timeout_s
    while processes_of(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def asked_and_accepted(running: Supervised, seconds: float):
    """A request that the engine has accepted and will answer after some time."""
    found = running.ask(f"/wait/{seconds}")
    running.find(rf"log: accepted /wait/{seconds}\b")
    return found


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_lets_accepted_requests_finish_and_exits_with_0(number):
    with supervised("slow-start", "child") as running:
        running.find("ready http")
        thread, answers = asked_and_accepted(running, 1.0)
        running.signal(number)
        assert running.wait() == 0, running.text
        thread.join(5)
        assert answers == [b"done"]
        assert "closed in order" in running.text
        assert running.said[-1] == "Stopped."
        assert gone(running.group)


@needs_proc
def test_a_second_interrupt_ends_at_once():
    with supervised() as running:
        running.find("ready http")
        running.ask("/wait/60", answered=False)
        running.find("log: accepted /wait/60")
        running.signal(signal.SIGINT)
        running.find("Stopping: accepted requests have up to 20 s")
        assert running.process.poll() is None
        running.signal(signal.SIGINT)
        assert running.wait() == 130
        assert "requests that were not finished are lost" in running.text
        assert gone(running.group)


@needs_proc
def test_a_second_sigterm_does_not_hurry():
    with supervised() as running:
        running.find("ready http")
        thread, answers = asked_and_accepted(running, 1.5)
        running.signal(signal.SIGTERM)
        running.find("Stopping")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        thread.join(5)
        assert answers == [b"done"]


@needs_proc
def test_an_engine_that_does_not_stop_in_time_is_ended_with_status_1():
    with supervised("deaf", "child", timeout_s=0.5) as running:
        running.find("ready http")
        running.signal(signal.SIGTERM)
        assert running.wait() == 1
        assert "had not stopped after 0.5 s" in running.text
        assert "--shutdown-timeout" in running.text
        assert gone(running.group)


@needs_proc
def test_an_engine_that_has_answered_all_gets_time_to_close():
    with supervised("answered-but-slow", timeout_s=0.1) as running:
        running.find("ready http")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0  # 3 s later: more than the timeout and what an engine may take by itself


@needs_proc
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_stopping_while_it_loads_leaves_nothing(number, status):
    with supervised("never-ready", "deaf", "child") as running:
        running.find("child")
        running.signal(number)
        assert running.wait() == status
        assert "Stopped while loading." in running.text
        assert gone(running.group)


@needs_proc
def test_an_engine_that_dies_at_start_is_explained():
    with supervised("dies-at-start", "child") as running:
        assert running.wait() == 1
        assert "The engine ended before it was ready: it exited with status 3." in running.said
        assert running.said[-1] == "  ValueError: no such model"
        assert gone(running.group)


@needs_proc
@pytest.mark.parametrize(
    ("path", "words", "reason"),
    [
        ("/die", "it was ended by SIGKILL.", ""),
        ("/fail", "it exited with status 1.", "  RuntimeError: the worker is gone"),
        ("/bow-out", "it exited with status 0.", ""),
    ],
)
def test_an_engine_that_dies_while_serving_is_explained(path, words, reason):
    with supervised("child") as running:
        running.find("ready http")
        running.ask(path, answered=False)
        assert running.wait() == 1, running.text
        assert f"The engine ended by itself: {words}" in running.said
        assert reason in running.text
        assert gone(running.group)


@needs_proc
@pytest.mark.parametrize("mode", ["never-ready", "slow-start"])
def test_no_process_outlives_a_killed_supervisor(mode):
    with supervised(mode, "deaf", "child") as running:
        running.find("child")
        group = running.group
        assert len(processes_of(group)) == 3  # the guard, the engine, its child
        running.signal(signal.SIGKILL)
        assert gone(group)


def test_a_long_log_comes_through_whole():
    with supervised("loud") as running:
        running.find("ready http")
        running.signal(signal.SIGTERM)
        running.wait()
        lines = [line for line in running.said if line.startswith("log: line ")]
        assert lines == [f"log: line {number}" for number in range(10_000)]
