"""Studies: order, resuming, processes, and what is left after an interruption."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.journal import Journal
from evenmoe.simulation.studies.study import CELLS_IN_CHUNK, grid, run_cells
from tests.simulation.study_cells import Counted, row_of

ROOT = Path(__file__).parents[2]
CELLS = grid(["bursty", "poisson"], [1.0, 2.5], [3, 4], ["a", "b", "c", "d", "e"])


def ran(log):
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_the_grid_has_every_combination_once_and_workloads_together():
    assert len(CELLS) == 40 == len({cell.key for cell in CELLS})
    workloads = [cell.workload for cell in CELLS]
    assert workloads == sorted(workloads)


@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_are_in_the_grid_s_order_whatever_finishes_first(tmp_path, jobs):
    told = []
    journal = Journal(tmp_path / "cells.jsonl", {})
    rows = run_cells(
        CELLS, Counted(tmp_path / "log"), journal=journal, jobs=jobs, announce=lambda *at: told.append(at)
    )
    assert rows == [row_of(cell) for cell in CELLS]
    assert sorted(ran(tmp_path / "log")) == sorted(cell.key for cell in CELLS)
    assert told[0] == (0, 40)
    assert told[-1] == (40, 40)
    assert all(earlier[0] < later[0] for earlier, later in pairwise(told))


def test_cells_sent_together_are_of_one_workload_and_few(tmp_path):
    chunks = []

    def run(cells):
        chunks.append(cells)
        return [row_of(cell) for cell in cells]

    run_cells(CELLS, run, journal=Journal(tmp_path / "cells.jsonl", {}), jobs=1)
    assert max(map(len, chunks)) == CELLS_IN_CHUNK
    assert all(len({cell.workload for cell in chunk}) == 1 for chunk in chunks)


def test_finished_cells_are_not_run_again_and_a_larger_grid_goes_on(tmp_path):
    path, log = tmp_path / "cells.jsonl", tmp_path / "log"
    run_cells(CELLS[:15], Counted(log), journal=Journal(path, {}), jobs=1)
    log.unlink()
    told = []
    rows = run_cells(
        CELLS, Counted(log), journal=Journal(path, {}), jobs=1, announce=lambda *at: told.append(at)
    )
    assert ran(log) == [cell.key for cell in CELLS[15:]]
    assert rows == [row_of(cell) for cell in CELLS]
    assert told[0] == (15, 40)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_fails_is_an_error_and_the_others_are_kept(tmp_path, jobs):
    cells = grid(["bursty"], [1.0], [1, 2, 3], ["a"]) + grid(["bursty"], [2.0], [1], ["bad"])
    path = tmp_path / "cells.jsonl"
    with pytest.raises(ArithmeticError, match="a cell that fails"):
        run_cells(cells, Counted(tmp_path / "log"), journal=Journal(path, {}), jobs=jobs)
    if jobs == 1:
        assert len(Journal(path, {})) == 3


def test_no_processes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="jobs = 0"):
        run_cells(CELLS, Counted(tmp_path / "log"), journal=Journal(tmp_path / "cells.jsonl", {}), jobs=0)


LONG = """
import signal
from pathlib import Path
from evenmoe.simulation.studies.journal import Journal
from evenmoe.simulation.studies.study import grid, run_cells
from tests.simulation.study_cells import Counted
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
out = Path({out!r})
cells = grid(["bursty"], [1.0, 2.0, 3.0, 4.0], list(range(25)), ["a"])
run_cells(cells, Counted(out / "log", 0.1), journal=Journal(out / "cells.jsonl", {{}}), jobs=2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_it_leaves_no_process_and_goes_on(tmp_path, kill):
    running = subprocess.Popen(
        [sys.executable, "-c", LONG.format(out=str(tmp_path))],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_until(lambda: num_cells(tmp_path / "cells.jsonl") > 0, 120)
    running.send_signal(kill)
    running.wait(timeout=30)
    wait_until(lambda: not members(running.pid), 30)
    journal = Journal(tmp_path / "cells.jsonl", {})
    assert 0 < len(journal) < 100
    done = len(journal)
    (tmp_path / "log").unlink()
    cells = grid(["bursty"], [1.0, 2.0, 3.0, 4.0], list(range(25)), ["a"])
    rows = run_cells(cells, Counted(tmp_path / "log"), journal=journal, jobs=1)
    assert rows == [row_of(cell) for cell in cells]
    assert len(ran(tmp_path / "log")) == 100 - done


def num_cells(path):
    """Cells in a journal that is being written."""
    return path.read_text().count("\n") - 1 if path.exists() else 0


def wait_until(happened, seconds):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def members(session):
    """Live processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(stat.parent.name)
    return found
