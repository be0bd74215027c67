"""Record: what became of one request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["finished", "refused", "failed", "timeout", "cut", "interrupted"]
"""finished; refused: the server said no (4xx); failed: 5xx, an error in the stream or no connection; timeout;
cut: the stream ended early; interrupted: the client stopped first."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Times in seconds since the start of the run; None where it did not come to that.

    id: as sent in X-Request-Id. planned_s: when it should have been sent; sent_s: when it was, later only where the
    client could not keep up. ended_s: when its outcome was known.
    first_s, last_s: the first and the last piece of text. num_tokens: output tokens by the server's own count.
    status: of the HTTP answer. error: what went wrong, in the server's or the client's words.
    answer_ids: the ids that the pieces of the answer bore. num_answers: how many answers its stream held.
    """

    index: int
    id: str
    topic: str
    planned_s: float
    sent_s: float
    ended_s: float
    outcome: Outcome
    first_s: float | None = None
    last_s: float | None = None
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    status: int | None = None
    error: str = ""
    answer_ids: tuple[str, ...] = ()
    num_answers: int = 0

    @property
    def latency_s(self) -> float | None:
        """From when it should have been sent, so that a slow client cannot flatter the server; None unless finished."""
        return self.ended_s - self.planned_s if self.outcome == "finished" else None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from when it should have been sent."""
        return None if self.first_s is None else self.first_s - self.planned_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for fewer than two tokens."""
        if self.first_s is None or self.last_s is None or self.num_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.num_tokens - 1)

    @property
    def late_s(self) -> float:
        """How late the client sent it."""
        return self.sent_s - self.planned_s

    @property
    def is_lost(self) -> bool:
        """Whether the server never said what became of it: no answer, or one without an end or an error."""
        return self.outcome in ("timeout", "cut") or (self.outcome == "failed" and self.status is None)

    def as_dict(self) -> dict[str, Any]:
        """The record as data."""
        return asdict(self)
