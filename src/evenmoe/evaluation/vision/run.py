"""`evenmoe eval --suite multimodal`: the bundled set offline, or a harness's tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scenes import Item
from evenmoe.evaluation.scoring import EvalConfig, EvalResult, LoadFigures, require_extra, write_items
from evenmoe.evaluation.vision.scoring import (
    batches_of,
    scene_items,
    scene_prompt,
    score_scenes,
    task_score,
    vision_versions,
)
from evenmoe.evaluation.vision.suites import SCENES, is_vlmevalkit, resolve_tasks
from evenmoe.loads import ExpertLoads, write_loads

if TYPE_CHECKING:
    from torch import nn

Announce = Callable[[str, int, int], None]
"""Called as the run goes on: what is running, how much of it is done, how much there is."""

LOADS_FILE = "loads.json"


def run_multimodal(config: EvalConfig, out: Path, announce: Announce | None = None) -> EvalResult:
    """Score a vision-language model on the configured tasks and write `eval.json` with its files into `out`.

    "scenes" and its families run here, offline; tasks with the prefix "vlmevalkit:" in VLMEvalKit, all others in
    lmms-eval. An interrupted run goes on where it stopped. Raises ConfigError for a setting that cannot act,
    MissingExtraError where a package is missing.
    """
    if any(map(is_vlmevalkit, config.tasks)):
        from evenmoe.evaluation.vision.vlmevalkit.run import run_vlmevalkit

        return run_vlmevalkit(config, out, announce)
    if resolve_tasks(config.tasks) is None:
        from evenmoe.evaluation.vision.lmms_eval.run import run_lmms_eval

        return run_lmms_eval(config, out, announce)
    return run_scenes(config, out, announce)


def run_scenes(
    config: EvalConfig,
    out: Path,
    announce: Announce | None = None,
    *,
    loaded: tuple[nn.Module, Any] | None = None,
) -> EvalResult:
    """Score a model on the bundled set, or on some of its families, and write the result into `out`.

    loaded: the model and its processor where the caller has them. Otherwise as `run_multimodal`.
    """
    config = _resolved(config)
    require_extra("vlm", "PIL")
    from evenmoe.evaluation.ledger import open_journal
    from evenmoe.evaluation.vision.answering import open_answerer

    items = scene_items(config)

    def progress(done: int, total: int) -> None:
        if announce is not None:
            announce(SCENES, done, total)

    start = time.perf_counter()
    journal = open_journal(config, out, vision_versions())
    with open_answerer(config, journal=journal, loaded=loaded) as answerer:
        opening = time.perf_counter() - start
        answers = answerer.answer([scene_prompt(item) for item in items], progress)
        assert answerer.loads is not None
        result = _write(config, out, items, answers, answerer.loads, opening + answerer.seconds)
    journal.clear()
    return result


def _resolved(config: EvalConfig) -> EvalConfig:
    """The configuration with its tasks by name, once each. Raises ConfigError for settings that could not act."""
    if config.num_fewshot:
        raise ConfigError("num_fewshot", config.num_fewshot, "0 on the bundled set of scenes")
    if config.include_path is not None:
        raise ConfigError("include_path", config.include_path, "left out: the bundled set has no task files")
    if config.apply_chat_template:
        allowed = "left out: the processor's own chat template is used wherever it has one"
        raise ConfigError("apply_chat_template", True, allowed)
    return config.model_copy(update={"tasks": resolve_tasks(config.tasks)})


def _write(
    config: EvalConfig,
    out: Path,
    items: Sequence[Item],
    answers: Sequence[str],
    loads: ExpertLoads,
    seconds: float,
) -> EvalResult:
    out.mkdir(parents=True, exist_ok=True)
    write_loads(loads, out / LOADS_FILE)
    tasks = []
    for task, rows in score_scenes(items, answers).items():
        items_file = f"items/{task}.jsonl"
        write_items(out / items_file, rows)
        tasks.append(task_score(task, rows, items_file))
    result = EvalResult(
        harness="evenmoe",
        config=config.model_dump(mode="json"),
        label=config.label,
        batches=batches_of(items, config),
        versions=vision_versions(),
        tasks=tuple(tasks),
        mean=float(np.mean([task.score for task in tasks])),
        loads=LoadFigures.of(loads),
        loads_file=LOADS_FILE,
        seconds=seconds,
    )
    result.write(out)
    return result
