"""LoadResult: a run in figures. All of it is computed from the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evenmoe.serving.load.record import Record

LATE_S = 0.05
"""A request that the client sent later than this counts as late."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Seconds, over the finished requests that have the time in question; `count` says how many these are."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles | None:
        """None where there is no value."""
        found = np.array([value for value in values if value is not None], dtype=np.float64)
        if not len(found):
            return None
        p50, p90, p99 = np.percentile(found, [50, 90, 99])
        return cls(
            count=len(found),
            mean=float(found.mean()),
            p50=float(p50),
            p90=float(p90),
            p99=float(p99),
            worst=float(found.max()),
        )


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What users saw.

    requests: those sent. offered_per_s: arrivals over their span, None where all come at once.
    finished_per_s, tokens_per_s: over the whole run.
    late: how late the client itself sent requests, num_late of them by more than LATE_S; where these are not few the
    client was the bottleneck.
    outcomes: requests by outcome. errors: by message, the most frequent first.
    lost: requests of which the server never said what became. doubled: requests that were answered more than once, by
    their own stream or by another's. strayed: requests whose answer bears another request's id; None where the server
    does not give the ids back.
    """

    requests: int
    seconds: float
    offered_per_s: float | None
    finished_per_s: float
    tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    latency: Percentiles | None
    ttft: Percentiles | None
    tpot: Percentiles | None
    late: Percentiles | None
    num_late: int
    most_in_flight: int
    outcomes: dict[str, int]
    errors: dict[str, int]
    lost: int
    doubled: int
    strayed: int | None

    def as_dict(self) -> dict[str, Any]:
        """The result as data."""
        return asdict(self)


def summarise(records: Sequence[Record], seconds: float) -> LoadResult:
    """The figures of a run that took `seconds`."""
    finished = [record for record in records if record.outcome == "finished"]
    span_s = max((record.planned_s for record in records), default=0.0)
    errors = Counter(record.error for record in records if record.error)
    return LoadResult(
        requests=len(records),
        seconds=seconds,
        offered_per_s=(len(records) - 1) / span_s if span_s > 0 else None,
        finished_per_s=len(finished) / seconds,
        tokens_per_s=sum(record.num_tokens for record in finished) / seconds,
        prompt_tokens=sum(record.num_prompt_tokens for record in finished),
        output_tokens=sum(record.num_tokens for record in finished),
        latency=Percentiles.of(record.latency_s for record in finished),
        ttft=Percentiles.of(record.ttft_s for record in finished),
        tpot=Percentiles.of(record.tpot_s for record in finished),
        late=Percentiles.of(record.late_s for record in records),
        num_late=sum(record.late_s > LATE_S for record in records),
        most_in_flight=_most_in_flight(records),
        outcomes=dict(Counter(record.outcome for record in records)),
        errors=dict(errors.most_common()),
        lost=sum(record.is_lost for record in records),
        doubled=_doubled(records),
        strayed=_strayed(records),
    )


def _doubled(records: Sequence[Record]) -> int:
    """Requests whose stream held several answers, or whose answer's id another stream bore too."""
    uses = Counter(answer_id for record in records for answer_id in record.answer_ids)
    return sum(
        record.num_answers > 1
        or len(record.answer_ids) > 1
        or any(uses[answer_id] > 1 for answer_id in record.answer_ids)
        for record in records
    )


def _strayed(records: Sequence[Record]) -> int | None:
    """Requests that another's answer came to. A server gives ids back if any answer's id holds its request's."""
    answered = [record for record in records if record.answer_ids]
    own = sum(record.id in record.answer_ids[0] for record in answered)
    return len(answered) - own if own else None


def _most_in_flight(records: Sequence[Record]) -> int:
    """The most requests that were open at one time."""
    starts = np.sort([record.sent_s for record in records])
    ends = np.sort([record.ended_s for record in records])
    opened = np.arange(1, len(starts) + 1)
    return int((opened - np.searchsorted(ends, starts, side="left")).max(initial=0))
