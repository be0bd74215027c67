"""Which requests share a forward, in which order: lm-eval's own order, written down so that it is the same every time.

A row is one sequence of a forward. Shape letters: B rows of a batch, S positions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evenmoe.errors import ConfigError

T = TypeVar("T")

LIKELIHOOD_ORDER = "longest first, ties by token ids"
ROLLING_ORDER = "as asked, batch by batch; in a batch longest first, ties by token ids"
GENERATION_ORDER = "by generation settings as they first come, then longest first, ties by text"
SHARING = "continuations that differ in the last token alone share one row"
SHARES = "contiguous shares of a batch's rows, the first (rows mod devices) devices one more"
LAST_BATCH = "smaller, and spread over the devices in the same way; capacity goes by the tokens that it has"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request: the tokens after which, and the tokens of which, the likelihood is asked."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.context + self.continuation


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """One row and the requests that it answers.

    input_ids: what the model is given: context and continuation without its last token, cut on the left to fit.
    requests: indices into the requests. continuations: their tokens, each scored at the end of the row.
    is_cut: whether it was too long to fit.
    """

    input_ids: tuple[int, ...]
    requests: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    is_cut: bool = False

    @property
    def num_scored(self) -> int:
        """Positions from the row's end whose logits are needed."""
        return max(map(len, self.continuations))

    def moved(self, start: int) -> ScoredRow:
        """The same row where the requests' numbers begin at `start`."""
        return dataclasses.replace(self, requests=tuple(start + index for index in self.requests))


def plan_rows(asked: Sequence[Asked], *, max_length: int, share: bool) -> list[ScoredRow]:
    """Return the rows that answer `asked`, longest first, ties by token ids and then by the order asked.

    share: whether requests with the same tokens but for the last of the continuation are one row, as lm-eval's
    `logits_cache` has it: the four options "A" to "D" of a question then cost one forward, and load the experts once.
    Raises ConfigError for a request without context or continuation, or a continuation longer than max_length.
    """
    groups: dict[object, list[int]] = {}
    for index, request in enumerate(asked):
        _check(request, max_length)
        groups.setdefault(request.tokens[:-1] if share else index, []).append(index)
    leaders = [max(group, key=lambda index: len(asked[index].continuation)) for group in groups.values()]
    order = sorted(
        zip(leaders, groups.values(), strict=True),
        key=lambda pair: (-len(asked[pair[0]].tokens), asked[pair[0]].tokens, pair[0]),
    )
    return [
        ScoredRow(
            input_ids=asked[leader].tokens[-(max_length + 1) :][:-1],
            requests=tuple(group),
            continuations=tuple(asked[index].continuation for index in group),
            is_cut=len(asked[leader].tokens) > max_length + 1,
        )
        for leader, group in order
    ]


def _check(request: Asked, max_length: int) -> None:
    if not request.context:
        raise ConfigError("context", "", "at least one token")
    if not 1 <= len(request.continuation) <= max_length:
        raise ConfigError(
            "tokens of a continuation", len(request.continuation), f"1 to the model's max_length {max_length}"
        )


def cut(rows: Sequence[T], size: int) -> list[list[T]]:
    """Cut into batches of `size` in the given order; the last may be smaller."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def order_fingerprint(batches: Iterable[Iterable[Any]]) -> str:
    """SHA-256 of which rows are in which batch in which order; rows are plain data."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(json.dumps(list(batch), separators=(",", ":"), default=list).encode() + b"\n")
    return digest.hexdigest()
