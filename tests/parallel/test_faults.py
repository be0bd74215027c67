"""A rank that dies, hangs, fails, leaves or differs: every other rank stops with an error that names it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from evenmoe.parallel.board import Row
from evenmoe.parallel.diagnosis import certain_cause, likely_cause
from tests.parallel import workers
from tests.parallel.ranks import run_ranks

# fault, the rank that has it, who serves the store, what the others say of it
CASES = {
    "killed, rank 0": ("killed", 0, "test", "died or is stopped: no sign of life for"),
    "killed, rank 2": ("killed", 2, "test", "died or is stopped: no sign of life for"),
    "stopped": ("stopped", 1, "test", "died or is stopped: no sign of life for"),
    "spins, rank 0": (
        "spins",
        0,
        "test",
        "hangs before collective number 3 (last seen: layer 2, dispatch,",
    ),
    "waits, rank 2": (
        "waits",
        2,
        "test",
        "hangs before collective number 3 (last seen: layer 2, dispatch,",
    ),
    "raises, rank 0": ("raises", 0, "test", "failed: ValueError: no such token"),
    "raises, rank 1": ("raises", 1, "test", "failed: ValueError: no such token"),
    "exits": ("exits", 2, "test", "failed: SystemExit: 3"),
    "exits at once": ("exits at once", 1, "test", "died or is stopped"),
    "leaves": ("leaves", 1, "test", "`generate`, pass `synced_gpus=True`"),
    "differs": ("differs", 2, "test", "runs all_to_all as collective number 3 where rank 0 runs all_reduce"),
    "killed with the store": ("killed", 0, "rank 0", "it serves the ranks' store"),
    "stopped with the store": ("stopped", 0, "rank 0", "the store does not answer within"),
    "raises with the store": ("raises", 0, "rank 0", "failed: ValueError: no such token"),
    "messenger has the store": ("differs", 2, "rank 0", "runs all_to_all"),
}


@pytest.fixture(scope="module")
def outcomes():
    """All cases at once: their processes mostly wait."""

    def run(case):
        fault, bad, serving, _ = case
        expected = [rank for rank in range(3) if rank != bad]
        return run_ranks(workers.steps, 3, expected=expected, args=(bad, fault), serving=serving)

    with ThreadPoolExecutor(5) as pool:
        return dict(zip(CASES, pool.map(run, CASES.values()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_every_other_rank_stops_and_names_it(case, outcomes):
    _, bad, _, said = CASES[case]
    for rank, outcome in enumerate(outcomes[case]):
        if rank != bad:
            assert outcome.kind == "error", (rank, outcome)
            assert outcome.blamed == bad, (rank, outcome)
            assert outcome.text.startswith(f"RankError: rank {bad} ")
            assert said in outcome.text


def test_no_fault_no_error():
    outcomes = run_ranks(workers.steps, 2, expected=range(2), args=(-1, ""))
    assert [outcome.value for outcome in outcomes] == ["done", "done"]


def test_a_broken_group_stays_broken():
    outcomes = run_ranks(workers.keep_trying, 2, expected=[0], args=(1, "exits"))
    first, second = outcomes[0].value
    assert first == second
    assert first.startswith("rank 1 failed: SystemExit: 3")


def rows(*entered, **fields):
    """Rows of ranks that wait in the collective of that number, or have it behind them if it is negative."""
    return [
        Row(
            rank=rank,
            beat=5,
            entered=abs(n),
            finished=abs(n) - (n > 0),
            operation="all_reduce",
            state="running",
            written_s=100.0,
            **fields,
        )
        for rank, n in enumerate(entered)
    ]


def later(before, *silent):
    """The rows a few beats later; those of `silent` have not moved."""
    return [row if row.rank in silent else _moved(row, beat=row.beat + 8, written_s=102.0) for row in before]


def _moved(row, **changes):
    return Row(**{**vars(row), **changes})


def test_beats_that_stopped_come_before_ranks_that_are_behind():
    before = rows(3, -2, 2)
    verdict = likely_cause(before, later(before, 2), before[0], 102.5)
    assert (verdict.rank, "no sign of life for 2.5 s" in verdict.reason) == (2, True)


def test_of_ranks_behind_the_one_that_does_not_wait_is_blamed():
    before = rows(3, 2, -2, -2)
    assert likely_cause(before, later(before), before[0], 102.0).rank == 2


def test_a_rank_that_is_further_is_not_blamed():
    before = rows(3, 4, -5)
    assert likely_cause(before, later(before), before[0], 102.0) is None


def test_of_ranks_that_differ_the_rarer_is_blamed():
    before = rows(3, 3, 3)
    before[1] = _moved(before[1], operation="barrier")
    for observer in before:
        verdict = likely_cause(before, later(before), observer, 102.0)
        assert (verdict.rank, verdict.reason[:12]) == (1, "runs barrier")


def test_a_messenger_is_never_blamed():
    """Rank 0 stopped because of another and its process ended: whoever reads that must look further."""
    board = rows(3, 3, -2)
    board[0] = _moved(board[0], state="stopped")
    exits = ["its process ended with code 1 and no result", None, None]
    assert certain_cause(board, exits, 3) is None
    assert likely_cause(board, later(board, 0), board[1], 102.0).rank == 2


def test_a_launcher_that_saw_the_end_is_believed_at_once():
    verdict = certain_cause(rows(3, -2), [None, "killed by signal 9 (SIGKILL)"], 3)
    assert verdict.rank == 1
    assert verdict.reason.startswith("died: killed by signal 9 (SIGKILL) (last seen: after all_reduce")


def test_who_left_after_the_same_number_is_not_blamed():
    board = [_moved(row, state="left") for row in rows(-3, -3)]
    assert certain_cause(board, [None, None], 3) is None
    assert certain_cause(board, [None, None], 4).rank == 0
