"""Run the check of one architecture, or of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import transformers
from transformers.utils import logging

from evenmoe.errors import EvenMoEError, check_choice
from evenmoe.models.catalog import CATALOG
from evenmoe.models.check import criteria, true_scores
from evenmoe.models.check.case import Case
from evenmoe.models.check.result import CheckFailure, CheckResult, Criterion, NotApplicable
from evenmoe.models.tiny import is_installed

CRITERIA: dict[str, Callable[[Case], str]] = {
    function.__name__.replace("_", " "): function
    for function in (
        criteria.infinite_gamma,
        criteria.stated_scores,
        criteria.capacity,
        criteria.computed,
        criteria.reference,
        criteria.substitutes,
        true_scores.substitute_weights,
        criteria.padding,
        criteria.implementations,
        criteria.images,
        criteria.generation,
        criteria.detach,
    )
}
"""Every criterion by its name, in the order in which they run; `detach` is last."""


def check_architecture(model_type: str, only: Iterable[str] | None = None, seed: int = 0) -> CheckResult:
    """Check one architecture on a tiny random model; `only` restricts the criteria. About a second, no network.

    The model's weights and its inputs are drawn from `seed`.

    Raises ConfigError for an unknown model type or criterion. Whatever goes wrong in the check itself is a failure.
    """
    check_choice("model_type", model_type, CATALOG)
    names = list(CRITERIA if only is None else only)
    for name in names:
        check_choice("only", name, CRITERIA)
    if not is_installed(model_type):
        message = f"transformers {CATALOG[model_type].since} or later has it, installed is {transformers.__version__}"
        return CheckResult(model_type=model_type, status="absent", message=message)
    with _quiet_transformers():
        return _check(model_type, names, seed)


def _check(model_type: str, names: Iterable[str], seed: int) -> CheckResult:
    start = time.perf_counter()
    try:
        case = Case.of(model_type, seed)
    except Exception as error:
        message = f"no tiny model: {type(error).__name__}: {error}"
        return CheckResult(
            model_type=model_type, status="failed", seconds=time.perf_counter() - start, message=message
        )
    outcomes = tuple(_run(name, case) for name in names)
    failures = [f"{c.name}: {c.detail}" for c in outcomes if c.outcome == "failed"]
    return CheckResult(
        model_type=model_type,
        status="failed" if failures else "passed",
        criteria=outcomes,
        seconds=time.perf_counter() - start,
        max_abs_diff=case.max_abs_diff,
        message="; ".join(failures),
    )


def check_all(
    names: Iterable[str] | None = None, progress: Callable[[CheckResult], None] | None = None
) -> list[CheckResult]:
    """Check the named architectures, or all of the catalogue; `progress` is called with each result as it comes.

    Raises ConfigError for an unknown name, before anything is checked.
    """
    model_types = list(CATALOG if names is None else names)
    for model_type in model_types:
        check_choice("names", model_type, CATALOG)
    results = []
    for model_type in model_types:
        results.append(check_architecture(model_type))
        if progress is not None:
            progress(results[-1])
    return results


def _run(name: str, case: Case) -> Criterion:
    try:
        return Criterion(name=name, outcome="passed", detail=CRITERIA[name](case))
    except NotApplicable as reason:
        return Criterion(name=name, outcome="not applicable", detail=str(reason))
    except (CheckFailure, EvenMoEError) as failure:
        return Criterion(name=name, outcome="failed", detail=str(failure))
    except Exception as error:
        return Criterion(name=name, outcome="failed", detail=f"{type(error).__name__}: {error}")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hush what transformers says about tiny configurations and about kernels that are not installed."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
