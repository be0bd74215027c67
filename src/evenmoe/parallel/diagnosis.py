"""Who is to blame when a collective fails: pure functions on the rows that the ranks have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evenmoe.parallel.board import Row, Verdict

LEFT_ADVICE = (
    "every rank must run the same number of forward passes "
    "(with `generate`, pass `synced_gpus=True`; give idle ranks a dummy batch)"
)


def certain_cause(rows: Sequence[Row | None], exits: Sequence[str | None], entered: int) -> Verdict | None:
    """The cause that needs no waiting: a rank that says it failed, a process seen to end, a rank that left.

    `entered` is the number of the collective that failed. A rank that stopped because of another is never blamed.
    """
    for rank, row in enumerate(rows):
        if row is not None and row.state == "failed":
            return Verdict(rank, f"failed: {row.reason} ({_last_place(row)})")
    for rank, how in enumerate(exits):
        if how is not None and not _ended_well(rows[rank]):
            return Verdict(rank, f"died: {how} ({_last_place(rows[rank])})")
    for rank, row in enumerate(rows):
        if row is not None and row.state == "left" and row.entered < entered:
            return Verdict(
                rank,
                f"left after {row.entered} collectives, while others are at number {entered}: {LEFT_ADVICE}",
            )
    return None


def likely_cause(
    before: Sequence[Row | None], after: Sequence[Row | None], observer: Row, now_s: float
) -> Verdict | None:
    """The cause as far as two looks at the board, a few beats apart, can tell; None: no rank differs.

    First a rank whose beats have stopped, then a rank that is behind, then ranks that disagree. `observer` is the
    own row, `now_s` the time of the second look on the clock that stamps the rows.
    """
    for rank, (old, new) in enumerate(zip(before, after, strict=True)):
        if rank == observer.rank or (new is not None and new.state in ("left", "stopped")):
            continue
        if new is None:
            return Verdict(rank, "has not joined the group")
        if old is not None and old.beat == new.beat:
            silent_s = max(now_s - new.written_s, 0.0)
            return Verdict(
                rank, f"died or is stopped: no sign of life for {silent_s:.1f} s ({_last_place(new)})"
            )
    behind = _most_behind([row for row in after if row is not None], observer)
    if behind is not None:
        return Verdict(
            behind.rank,
            f"hangs before collective number {observer.entered} ({_last_place(behind)}): it is alive, but the "
            f"others wait for it at {observer.place}",
        )
    return _disagreement([row for row in after if row is not None], observer)


def _most_behind(rows: list[Row], observer: Row) -> Row | None:
    """The rank with the fewest collectives; among equals one that is not itself waiting inside, then the lowest."""
    slow = [row for row in rows if row.entered < observer.entered and row.state in ("starting", "running")]
    if not slow:
        return None
    return min(slow, key=lambda row: (row.entered, row.entered != row.finished, row.rank))


def _disagreement(rows: list[Row], observer: Row) -> Verdict | None:
    """A rank that does something else in the same collective: of two kinds the rarer, then the higher rank."""
    here = [row for row in rows if row.entered == observer.entered]
    num_by_operation = Counter(row.operation for row in here)
    if len(num_by_operation) < 2:
        return None
    odd = min(here, key=lambda row: (num_by_operation[row.operation], -row.rank))
    other = next(row for row in here if row.operation != odd.operation)
    return Verdict(
        odd.rank,
        f"runs {odd.operation} as collective number {odd.entered} where rank {other.rank} runs "
        f"{other.operation}: every rank must make the same calls",
    )


def _ended_well(row: Row | None) -> bool:
    return row is not None and row.state in ("left", "stopped")


def _last_place(row: Row | None) -> str:
    if row is None:
        return "before it joined the group"
    return f"last seen: {row.place}"
