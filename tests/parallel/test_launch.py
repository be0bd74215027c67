"""`launch`: results, errors, and no process left, however it ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evenmoe.errors import ConfigError, RankError
from evenmoe.parallel import launch
from tests.parallel import workers
from tests.parallel.ranks import DEADLINE_S, forking
from tests.parallel.test_group import check_collectives


def state(pid: int) -> str:
    """The process's state as one letter: T is stopped, Z a zombie; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return state(pid) not in ("", "Z")


def spawned() -> set[int]:
    """The children of this process, zombies too, that multiprocessing has spawned, by pid."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and ("spawn_main" in command or not command):
            found.add(int(folder.name))
    return found


@pytest.fixture(autouse=True)
def _no_process_is_left():
    before, variables, handler = spawned(), dict(os.environ), signal.getsignal(signal.SIGTERM)
    yield
    assert spawned() == before
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == {**variables, "PYTEST_CURRENT_TEST": ""}
    assert signal.getsignal(signal.SIGTERM) is handler


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_results_progress_threads_and_log(caplog):
    progress = []
    with caplog.at_level(logging.INFO, logger="evenmoe"):
        found = launch(
            workers.collectives, num_ranks=2, threads=2, on_progress=lambda *step: progress.append(step)
        )
    check_collectives(found)
    assert progress == [("start", 0, 2), ("end", 2, 2)]
    assert [values["threads"] for values in found] == [2, 2]
    assert not any(is_running(values["pid"]) for values in found)
    words = [record.getMessage() for record in caplog.records if record.name == "evenmoe.parallel.workers"]
    assert sorted(words) == ["rank 0: a word of 0", "rank 1: a word of 1"]


def test_a_rank_that_is_killed_is_named_and_the_other_knew_it():
    with pytest.raises(RankError) as caught:
        launch(workers.supervised_steps, num_ranks=2, args=(0, "killed"), timeout_s=60.0)
    assert caught.value.rank == 0
    assert str(caught.value) == "rank 0 died: killed by signal 9 (SIGKILL)"
    assert "rank 1 stopped: RankError: rank 0 died: killed by signal 9 (SIGKILL)" in notes(caught.value)


def test_a_rank_that_hangs_is_named_and_stopped():
    with pytest.raises(RankError) as caught:
        launch(workers.supervised_steps, num_ranks=2, args=(1, "spins"), timeout_s=1.0)
    assert caught.value.rank == 1
    assert "hangs before collective number 3 (last seen: layer 2, dispatch" in str(caught.value)
    assert "rank 0 stopped: RankError: rank 1 hangs" in notes(caught.value)
    assert "rank 1 was stopped by the launcher" in notes(caught.value)


def test_an_error_names_the_rank_and_brings_its_traceback():
    with pytest.raises(RankError, match="rank 1 failed: ValueError: no such token") as caught:
        launch(workers.supervised_steps, num_ranks=2, args=(1, "raises"))
    assert "in _raise_value_error" in notes(caught.value)
    assert "rank 0 stopped: RankError: rank 1 failed: ValueError: no such token" in notes(caught.value)


def test_an_error_of_evenmoe_comes_out_as_itself():
    with pytest.raises(ConfigError) as caught:
        launch(workers.refuse, num_ranks=1)
    assert str(caught.value) == "gamma = -1 is not allowed: over 0"
    assert (caught.value.field, caught.value.value) == ("gamma", -1)
    assert "rank 0:\nTraceback" in notes(caught.value)


@pytest.mark.parametrize(
    ("worker", "args", "said"),
    [
        (workers.answer_unpicklable, (), "rank 0 failed: TypeError: the worker's result cannot be pickled"),
        (
            workers.supervised_steps,
            (0, "exits at once"),
            "rank 0 died: its process ended with code 3 and no result",
        ),
    ],
)
def test_a_rank_without_a_result_is_named(worker, args, said):
    with pytest.raises(RankError, match=said):
        launch(worker, num_ranks=1, args=args)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_ranks", 0), ("num_ranks", 1.5), ("threads", 0), ("timeout_s", 0), ("port", 0), ("backend", "mpi")],
)
def test_settings_that_cannot_act_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} = {value!r} is not allowed"):
        launch(workers.collectives, **{"num_ranks": 2, field: value})


def test_what_cannot_be_pickled_is_refused():
    with pytest.raises(ConfigError, match=r"worker = .* a function at the top of a module"):
        launch(lambda group, progress: None, num_ranks=2)
    with pytest.raises(ConfigError, match=r"args = .* values that can be pickled"):
        launch(workers.collectives, num_ranks=2, args=(lambda: None,))


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port = {port} is not allowed: a free port"):
            launch(workers.collectives, num_ranks=2, port=port)


# what is sent, to the launcher alone or to its whole process group; how the launcher ends; whether ranks unwind
ENDS = {
    "ctrl-c": (signal.SIGINT, True, "KeyboardInterrupt", True),
    "terminate": (signal.SIGTERM, False, "SystemExit", True),
    "kill": (signal.SIGKILL, False, None, False),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """All ways to end a launch, at once."""

    def run(name):
        return _end_launch(tmp_path_factory.mktemp("launch"), *ENDS[name][:2])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(ENDS, pool.map(run, ENDS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_no_rank_outlives_its_launcher(name, ends):
    """Also not one that is stopped (rank 1), which no signal but SIGKILL reaches."""
    _, _, error, unwinds = ENDS[name]
    ended_with, left, unwound = ends[name]
    assert left == []
    assert ended_with == error
    assert unwound == ([0] if unwinds else [])


def _end_launch(folder: Path, number: signal.Signals, whole_group: bool):
    """Launch two ranks in another process, send it a signal, and return how it ended and what is left."""
    here, there = forking().Pipe(duplex=False)
    launcher = forking().Process(target=_launch_for_ever, args=(folder, there))
    launcher.start()
    there.close()
    try:
        pids = [_read_pid(folder / f"{rank}.pid") for rank in range(2)]
        deadline = time.monotonic() + DEADLINE_S
        while state(pids[1]) != "T" and time.monotonic() < deadline:
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(launcher.pid, number)
        ended_with = None if number == signal.SIGKILL or not here.poll(DEADLINE_S) else here.recv()
        deadline = time.monotonic() + DEADLINE_S
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [pid for pid in pids if is_running(pid)]
    finally:
        launcher.kill()  # its ranks die with it, as one of these cases shows
        launcher.join()
    return ended_with, left, [rank for rank in range(2) if (folder / f"{rank}.unwound").exists()]


def _launch_for_ever(folder: Path, pipe) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        launch(workers.wait_forever, num_ranks=2, args=(folder,))
    except BaseException as error:
        pipe.send(type(error).__name__)


def _read_pid(path: Path) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise TimeoutError(f"no rank has written {path.name}")
