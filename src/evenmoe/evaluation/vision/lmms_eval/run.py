"""Whole evaluations in lmms-eval, in this process: its tasks, our model, and a result like every other."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenmoe.errors import ConfigError
from evenmoe.evaluation.results import versions
from evenmoe.evaluation.scoring import EvalConfig, EvalResult, LoadFigures, require_extra, write_items
from evenmoe.evaluation.scoring.extras import MissingExtraError
from evenmoe.evaluation.vision.lmms_eval.scores import HEADLINES, ScoredTask, mean_score, scored_task
from evenmoe.loads import write_loads

if TYPE_CHECKING:
    from evenmoe.evaluation.vision.lmms_eval.model import EvenMoELmms

Announce = Callable[[str, int, int], None]

LOADS_FILE = "loads.json"
HARNESS_FILE = "lmms_eval.json"
"""What lmms-eval itself returned: every metric, and the tasks' configurations."""
HARNESS_KEYS = ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better")
SCRATCH = "lmms_eval.partial"
"""Where tasks of lmms-eval write files of their own while it runs."""


def run_lmms_eval(config: EvalConfig, out: Path, announce: Announce | None = None) -> EvalResult:
    """Score a vision-language model on tasks of lmms-eval and write `eval.json` with its files into `out`.

    config.tasks: names of tasks or groups; those in `include_path` and our own are known too. announce is told what is
    running, how many requests of it are done, and how many there are. An interrupted run goes on where it stopped.
    Raises MissingExtraError without lmms-eval, ConfigError for a task or a setting that cannot act,
    MissingDatasetError for data that cannot be had; nothing is written then.
    """
    _require_lmms_eval()
    _refuse_idle_settings(config)
    from evenmoe.evaluation.ledger import open_journal
    from evenmoe.evaluation.vision.lmms_eval.loading import load_tasks
    from evenmoe.evaluation.vision.lmms_eval.model import EvenMoELmms

    tasks = load_tasks(config.tasks, config.include_path)
    _check_limit(config, [task.task_name for task in tasks])

    def progress(done: int, total: int) -> None:
        if announce is not None:
            announce(config.label, done, total)

    start = time.perf_counter()
    found = versions() | {"lmms_eval": version("lmms_eval")}
    journal = open_journal(config, out, found)
    model = EvenMoELmms.of(config, progress=progress, journal=journal)
    opening = time.perf_counter() - start
    scratch = out / SCRATCH
    try:
        with _quiet():
            whole = _evaluate(model, tasks, config, scratch)
        scored = _scored(tasks, whole)
    finally:
        model.close()
        shutil.rmtree(scratch, ignore_errors=True)
    result = _write(config, out, model, whole, scored, versions=found, seconds=opening + model.seconds)
    journal.clear()
    return result


def _evaluate(model: Any, tasks: Sequence[Any], config: EvalConfig, scratch: Path) -> dict[str, Any]:
    from lmms_eval.evaluator import simple_evaluate

    found: dict[str, Any] = simple_evaluate(
        model=model,
        tasks=list(tasks),
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        bootstrap_iters=0,
        log_samples=True,
        random_seed=config.seed,
        process_docs_parallel=1,
        cli_args=Namespace(output_path=str(scratch), process_with_media=False, reasoning_tags=None),
    )
    return found


def _scored(tasks: Sequence[Any], whole: dict[str, Any]) -> list[ScoredTask]:
    """Score each task by its headline metrics. Raises ConfigError for a task that has none."""
    found: list[ScoredTask] = []
    for task in tasks:
        name = task.task_name
        metrics = HEADLINES.get(name, tuple(task.aggregation())[:1])
        for metric in metrics:
            label = name if len(metrics) == 1 else f"{name}.{metric}"
            if (scored := scored_task(name, metric, whole, _alone(task, metric), label)) is not None:
                found.append(scored)
    if not found:
        raise ConfigError("tasks", [task.task_name for task in tasks], "tasks that lmms-eval gives a score")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lmms-eval's log off standard error, and what its metrics print off standard output."""
    from loguru import logger

    logger.disable("lmms_eval")
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.enable("lmms_eval")


def _alone(task: Any, metric: str) -> Callable[[list[Any]], float]:
    """The task's aggregate as a function of values alone; some also want to know where to write files."""
    aggregate = task.aggregation()[metric]
    if "args" not in inspect.signature(aggregate).parameters:
        found: Callable[[list[Any]], float] = aggregate
        return found
    return partial(aggregate, args=task.args)


def _write(
    config: EvalConfig,
    out: Path,
    model: EvenMoELmms,
    whole: Mapping[str, Any],
    scored: Sequence[ScoredTask],
    *,
    versions: dict[str, str],
    seconds: float,
) -> EvalResult:
    loads = model.loads
    assert loads is not None
    out.mkdir(parents=True, exist_ok=True)
    write_loads(loads, out / LOADS_FILE)
    for task in scored:
        write_items(out / task.score.items_file, task.items)
    kept = {name: whole[name] for name in HARNESS_KEYS if name in whole}
    (out / HARNESS_FILE).write_text(json.dumps(kept, indent=1, default=str) + "\n", encoding="utf-8")
    result = EvalResult(
        harness="lmms-eval",
        config=config.model_dump(mode="json"),
        label=config.label,
        batches=model.batches,
        versions=versions,
        tasks=tuple(task.score for task in scored),
        mean=mean_score([task.score for task in scored]),
        loads=LoadFigures.of(loads),
        loads_file=LOADS_FILE,
        seconds=seconds,
    )
    result.write(out)
    return result


def _require_lmms_eval() -> None:
    require_extra("vlm", "PIL")
    if find_spec("lmms_eval") is None:
        raise MissingExtraError(
            "lmms_eval is not installed: `sh tools/vlm_env/lmms_eval.sh FOLDER` makes an environment that has it, and "
            "docs/lmms_eval.md says how to add it to one with a GPU"
        )


def _refuse_idle_settings(config: EvalConfig) -> None:
    if config.apply_chat_template:
        raise ConfigError("apply_chat_template", True, "left out: a processor's chat template is always used")


def _check_limit(config: EvalConfig, tasks: Sequence[str]) -> None:
    if "mme" in tasks and config.limit is not None and config.limit % 2:
        raise ConfigError("limit", config.limit, "even with mme, whose questions come in pairs")
