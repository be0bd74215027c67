"""Whole evaluations in VLMEvalKit, in this process: its loop, its scoring, our model, and a result like every other."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial, partialmethod
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from evenmoe.errors import ConfigError
from evenmoe.evaluation.ledger import open_journal
from evenmoe.evaluation.results import versions
from evenmoe.evaluation.scoring import EvalConfig, EvalResult, LoadFigures, require_extra, write_items
from evenmoe.evaluation.vision.scoring import scene_items
from evenmoe.evaluation.vision.suites import SCENES, VLMEVALKIT_PREFIX, is_vlmevalkit, resolve_tasks
from evenmoe.evaluation.vision.vlmevalkit.harness import load_vlmeval, variable_set
from evenmoe.evaluation.vision.vlmevalkit.registering import model_name
from evenmoe.loads import write_loads

if TYPE_CHECKING:
    from torch import nn

    from evenmoe.evaluation.vision.vlmevalkit.records import Evaluated, Scored
    from evenmoe.evaluation.vision.vlmevalkit.wrapper import EvenMoEVLM, Prompts

Announce = Callable[[str, int, int], None]

LOADS_FILE = "loads.json"
HARNESS_FOLDER = "vlmevalkit"
"""Where VLMEvalKit keeps predictions, matches and its own tables."""
SETTING_FILE = "setting.json"
"""Beside them: checkpoint and policy in force, and VLMEvalKit's own figures."""
SCENES_NAME = "evenmoe_scenes"


def run_vlmevalkit(
    config: EvalConfig,
    out: Path,
    announce: Announce | None = None,
    *,
    prompts: Prompts = "auto",
    loaded: tuple[nn.Module, Any] | None = None,
) -> EvalResult:
    """Score a vision-language model on benchmarks of VLMEvalKit and write `eval.json` with its files into `out`.

    config.tasks: "vlmevalkit:NAME" for a benchmark or a table in `$LMUData`, "vlmevalkit:scenes" or
    "vlmevalkit:scenes_FAMILY" for the bundled set. prompts: how questions are put. loaded: the model and its processor
    where the caller has them. announce is told what is running, how many items are done, how many there are.

    An interrupted run goes on where it stopped. Raises MissingExtraError without VLMEvalKit, ConfigError for a task or
    a setting that cannot act, MissingDatasetError for a benchmark that cannot be had.
    """
    require_extra("vlm", "PIL")
    names = _names(config)
    load_vlmeval()
    from evenmoe.evaluation.vision.vlmevalkit.wrapper import EvenMoEVLM

    start = time.perf_counter()
    with ExitStack() as stack, _quiet(bars=announce is None):
        benchmarks = [stack.enter_context(_opened(name, config)) for name in names]
        journal = open_journal(config, out, versions())
        model = EvenMoEVLM(config, prompts=prompts, journal=journal, loaded=loaded)
        stack.callback(model.close)
        opening = time.perf_counter() - start
        folder = out / HARNESS_FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # VLMEvalKit would take up what an earlier run left
        folder.mkdir(parents=True)
        label = model_name(config, {"prompts": prompts})
        found = {}
        for name, benchmark in zip(names, benchmarks, strict=True):
            model.progress = None if announce is None else partial(announce, name)
            found[name] = _run(model, label, benchmark, folder)
        result = _write(config, out, model, found, opening + model.seconds)
    journal.clear()
    return result


def _names(config: EvalConfig) -> tuple[str, ...]:
    """The benchmarks that are meant, once each, "scenes" standing for all of its families that are."""
    if other := next((task for task in config.tasks if not is_vlmevalkit(task)), None):
        raise ConfigError("tasks", other, f"tasks of VLMEvalKit alone, {VLMEVALKIT_PREFIX}NAME")
    if config.num_fewshot:
        raise ConfigError("num_fewshot", config.num_fewshot, "0: VLMEvalKit gives no examples")
    if config.include_path is not None:
        raise ConfigError("include_path", config.include_path, "left out: VLMEvalKit reads $LMUData/NAME.tsv")
    if config.apply_chat_template:
        raise ConfigError("apply_chat_template", True, "left out: a processor's chat template is always used")
    names = [SCENES if _is_scenes(task) else task.removeprefix(VLMEVALKIT_PREFIX) for task in config.tasks]
    return tuple(dict.fromkeys(names))


def _is_scenes(task: str) -> bool:
    name = task.removeprefix(VLMEVALKIT_PREFIX)
    return name == SCENES or name.startswith(f"{SCENES}_")


@contextmanager
def _opened(name: str, config: EvalConfig) -> Iterator[Any]:
    from evenmoe.evaluation.vision.vlmevalkit.benchmarks import open_benchmark, open_scenes

    if name != SCENES:
        yield open_benchmark(name, config.limit)
        return
    families = resolve_tasks(
        [task.removeprefix(VLMEVALKIT_PREFIX) for task in config.tasks if _is_scenes(task)]
    )
    items = scene_items(config.model_copy(update={"tasks": families}))
    with open_scenes(SCENES_NAME, items) as benchmark:
        yield benchmark


def _run(model: EvenMoEVLM, name: str, benchmark: Any, folder: Path) -> tuple[Evaluated, list[Scored]]:
    from vlmeval.inference import infer_data_job

    from evenmoe.evaluation.vision.vlmevalkit import records

    infer_data_job(model, work_dir=str(folder), model_name=name, dataset=benchmark)
    found = records.evaluate(benchmark, folder, name)
    if benchmark.dataset_name == SCENES_NAME:
        return found, records.scored_scenes(found, model.said)
    return found, records.scored(benchmark.dataset_name, found, model.said)


def _write(
    config: EvalConfig,
    out: Path,
    model: EvenMoEVLM,
    found: dict[str, tuple[Evaluated, list[Scored]]],
    seconds: float,
) -> EvalResult:
    scored = [score for _, scores in found.values() for score in scores]
    assert model.loads is not None
    write_loads(model.loads, out / LOADS_FILE)
    for task in scored:
        write_items(out / task.score.items_file, task.items)
    setting = {
        "config": config.model_dump(mode="json"),
        "in_force": model.in_force,
        "figures": {name: evaluated.figures for name, (evaluated, _) in found.items()},
    }
    (out / HARNESS_FOLDER / SETTING_FILE).write_text(json.dumps(setting, indent=1) + "\n", encoding="utf-8")
    result = EvalResult(
        harness="vlmevalkit",
        config=config.model_dump(mode="json"),
        label=config.label,
        batches=model.batches,
        versions=versions() | {"ms-vlmeval": version("ms-vlmeval")},
        tasks=tuple(task.score for task in scored),
        mean=float(np.mean([task.score.score for task in scored])),
        loads=LoadFigures.of(model.loads),
        loads_file=LOADS_FILE,
        seconds=seconds,
    )
    result.write(out)
    return result


@contextmanager
def _quiet(*, bars: bool) -> Iterator[None]:
    """Keep what VLMEvalKit prints off standard output, its progress bars too unless `bars`, which it cannot be told."""
    shown = tqdm.__init__
    if not bars:
        tqdm.__init__ = partialmethod(shown, disable=True)
    try:
        with redirect_stdout(sys.stderr), variable_set("PRED_FORMAT", "xlsx"):  # sheets keep text as it is
            yield
    finally:
        tqdm.__init__ = shown
