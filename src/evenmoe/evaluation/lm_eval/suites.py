"""Suites: which tasks, with how many shots, by which metric. Data only, so that listing them needs no harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evenmoe.errors import check_choice
from evenmoe.evaluation.texts import heldout_texts


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """One task or group of lm-eval.

    num_fewshot: None is the task's own number. metric: as lm-eval names it, with the filter after a comma where there
    is more than one; None: chosen by `metrics.main_metric`. folder: where lm-eval keeps it, if not under its own name.
    """

    name: str
    num_fewshot: int | None = None
    metric: str | None = None
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that make one table, with its mean."""

    name: str
    about: str
    tasks: tuple[SuiteTask, ...]

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks in the table's order."""
        return tuple(task.name for task in self.tasks)


BUNDLED_TASK = "evenmoe_bundled_{domain}"


def _language() -> Suite:
    """The nine tasks and shots of the paper's language table (CAI, section 5).

    Metrics: `acc_norm` (likelihood per character) where options are whole sentences and lm-eval offers it, which is
    how these four are usually reported; `acc` elsewhere; for gsm8k the answer after "####" as the shots write it.
    """
    return Suite(
        name="language",
        about="the nine tasks of the Capacity-Aware Inference paper",
        tasks=(
            SuiteTask(name="openbookqa", num_fewshot=0, metric="acc_norm"),
            SuiteTask(name="piqa", num_fewshot=0, metric="acc_norm"),
            SuiteTask(name="rte", num_fewshot=0, metric="acc", folder="glue/rte"),
            SuiteTask(name="winogrande", num_fewshot=5, metric="acc"),
            SuiteTask(name="boolq", num_fewshot=0, metric="acc", folder="super_glue/boolq"),
            SuiteTask(name="arc_challenge", num_fewshot=25, metric="acc_norm", folder="arc"),
            SuiteTask(name="hellaswag", num_fewshot=10, metric="acc_norm"),
            SuiteTask(name="mmlu", num_fewshot=5, metric="acc", folder="mmlu/default"),
            SuiteTask(name="gsm8k", num_fewshot=5, metric="exact_match,strict-match"),
        ),
    )


def _bundled() -> Suite:
    """Cloze tasks on the held-out text that ships, one per domain."""
    return Suite(
        name="bundled",
        about="the true continuation among four, on the held-out text that ships",
        tasks=tuple(
            SuiteTask(name=BUNDLED_TASK.format(domain=domain), num_fewshot=0, metric="acc")
            for domain in heldout_texts()
        ),
    )


SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (_bundled(), _language())}


def suite_named(name: str) -> Suite:
    """Return a suite of lm-eval tasks. Raises ConfigError for an unknown name, listing the known ones."""
    check_choice("suite", name, SUITES)
    return SUITES[name]
