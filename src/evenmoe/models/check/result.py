"""CheckResult: what the check of one architecture found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "absent"]
"""absent: the installed transformers does not have the architecture."""


class CheckFailure(Exception):  # noqa: N818 (the model's failure, not an error of ours)
    """A criterion does not hold; the message says what was seen."""


class NotApplicable(Exception):  # noqa: N818 (not an error)
    """A criterion makes no sense for an architecture; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One criterion's outcome: passed, failed or not applicable, with what was seen or why."""

    name: str
    outcome: Literal["passed", "failed", "not applicable"]
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One architecture's outcome.

    max_abs_diff: the largest difference between two logits that ought to agree, over all criteria; None if absent.
    message: the failures, or why it is absent; "" if passed.
    """

    model_type: str
    status: Status
    criteria: tuple[Criterion, ...] = ()
    seconds: float = 0.0
    max_abs_diff: float | None = None
    message: str = ""
