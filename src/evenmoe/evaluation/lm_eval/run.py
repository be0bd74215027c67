"""run_lm_eval: one model under one policy on lm-eval's tasks, each task by itself, resumable to the byte."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from torch import nn

from evenmoe.evaluation.checkpoints import weights_mark
from evenmoe.evaluation.ledger import open_journal
from evenmoe.evaluation.lm_eval import batching
from evenmoe.evaluation.lm_eval.finding import Unit, load_units, task_manager
from evenmoe.evaluation.lm_eval.metrics import item_scores, main_metric, metrics_of, short_name, stderr_of
from evenmoe.evaluation.lm_eval.model import EvenMoELM
from evenmoe.evaluation.lm_eval.pretrained import open_pretrained
from evenmoe.evaluation.lm_eval.quiet import no_bars
from evenmoe.evaluation.lm_eval.suites import SuiteTask, suite_named
from evenmoe.evaluation.lm_eval.task_files import task_folder
from evenmoe.evaluation.results import versions
from evenmoe.evaluation.scoring import (
    EvalConfig,
    EvalResult,
    ItemScore,
    LoadFigures,
    TaskScore,
    read_eval_result,
    write_items,
)
from evenmoe.loads import ExpertLoads, write_loads
from evenmoe.placement import Placement
from evenmoe.simulation.studies.journal import Journal

log = logging.getLogger(__name__)

Announce = Callable[[str, int, int], None]
"""Called with what is running, how many of its requests are answered, and how many there are."""

Scored = tuple[TaskScore, list[ItemScore]]

LOADS_FILE = "loads.json"

TASK_SUFFIXES = (".yaml", ".py", ".json", ".jsonl", ".csv")
"""What a folder of tasks may be made of."""

HARNESS_SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""lm-eval's own seeds, so that seed 0 draws the shots that lm-eval draws; ours is added to each."""


def run_lm_eval(
    config: EvalConfig,
    out: Path,
    announce: Announce | None = None,
    *,
    load_model: Callable[[], nn.Module] | None = None,
) -> EvalResult:
    """Evaluate and write `eval.json`, the loads and the items' scores into `out`; returns the result.

    Each task or group is run by itself, in the given order: its batches hold no other's requests and its draws begin
    anew, so its score does not depend on what else is run. The data of all is loaded before anything runs. An
    interrupted run goes on where it stopped, and gives the same bytes; a result that is there already is returned.

    load_model: gives the configured model, for callers that run several policies on one; called once data is there.
    Raises ConfigError for settings that cannot act and for unknown tasks, DataError where a task's data cannot be had,
    and what `load` and `attach` raise. Nothing is written before all of that has passed.
    """
    config.build_policy()
    units = units_of(config)
    known = _versions(config)
    finished = _finished(config, out, known)
    if finished is not None:
        return finished
    journal = open_journal(config, out, known)
    start, resumed = time.perf_counter(), 0.0
    with open_model(config, journal, load_model) as model:
        scored, formed = [], {}
        for unit in units:
            scored.append(_score_unit(unit, model, config, announce))
            formed[unit.name] = model.runner.formed
        resumed = model.runner.ledger.seconds_resumed
        loads = model.loads
    assert loads is not None, "lm-eval makes at least one request for each task"
    for score, items in scored:
        write_items(out / score.items_file, items)
    write_loads(loads, out / LOADS_FILE)
    seconds = time.perf_counter() - start + resumed
    result = _result(config, [score for score, _ in scored], formed, loads, known, seconds)
    result.write(out)
    journal.clear()
    return result


def _result(
    config: EvalConfig,
    tasks: Sequence[TaskScore],
    formed: Mapping[str, Any],
    loads: ExpertLoads,
    known: Mapping[str, str],
    seconds: float,
) -> EvalResult:
    return EvalResult(
        harness="lm-eval",
        config=config.model_dump(mode="json"),
        label=config.label,
        batches=_how_formed(config) | {"tasks": formed},
        versions=dict(known),
        tasks=tuple(tasks),
        mean=_mean(tasks),
        loads=LoadFigures.of(loads),
        loads_file=LOADS_FILE,
        seconds=seconds,
    )


def check_repeat(
    config: EvalConfig,
    out: Path,
    announce: Announce | None = None,
    *,
    load_model: Callable[[], nn.Module] | None = None,
) -> list[str]:
    """Run the first task again, alone and from nothing, and return in what it differs from the result in `out`.

    Empty where scores, items and batches are the same to the byte, as they should be.
    """
    before = read_eval_result(out)
    first = before.tasks[0]
    with TemporaryDirectory() as folder:
        again = run_lm_eval(
            config.model_copy(update={"tasks": (_asked_name(config, first.task),)}),
            Path(folder),
            announce,
            load_model=load_model,
        )
        repeated = again.tasks[0]
        found = []
        if repeated != first:
            found.append(f"score of {first.task}: {first.score} then {repeated.score}")
        if (out / first.items_file).read_bytes() != (Path(folder) / repeated.items_file).read_bytes():
            found.append(f"items of {first.task}")
        if before.batches["tasks"][first.task] != again.batches["tasks"][repeated.task]:
            found.append(f"batches of {first.task}")
    return found


def _asked_name(config: EvalConfig, task: str) -> str:
    """The name in the configuration that a scored task came from: itself, or the first where that is a tag."""
    return task if task in config.tasks else config.tasks[0]


def units_of(config: EvalConfig) -> list[Unit]:
    """The tasks of a configuration, loaded with their data; see `load_units` for what it raises."""
    by_name = {task.name: task for task in suite_named(config.suite).tasks} if config.suite else {}
    choices = [by_name.get(name, SuiteTask(name=name)) for name in config.tasks]
    manager = task_manager(choices, config.include_path)
    return load_units(choices, manager, config.num_fewshot, HARNESS_SEEDS["fewshot"] + config.seed)


def load_configured(config: EvalConfig) -> nn.Module:
    """The configured model without a policy. Raises what `load` raises."""
    model, _ = open_pretrained(
        config.model,
        dtype=config.dtype,
        quantization=config.quantization,
        device=None,
        trust_remote_code=False,
    )
    return model


def open_model(
    config: EvalConfig,
    journal: Journal | None = None,
    load_model: Callable[[], nn.Module] | None = None,
) -> EvenMoELM:
    """The configured model with its policy on; leave it with `with`, or `detach`."""
    placement = None if config.placement is None else Placement.of(config.placement, config.num_devices)
    return EvenMoELM(
        load_model() if load_model else load_configured(config),
        tokenizer=config.model,
        policy=config.build_policy(),
        devices=config.num_devices,
        placement=placement,
        phases=config.phases,
        min_tokens=config.min_tokens,
        pad_token_id=config.pad_token_id,
        seed=config.seed,
        batch_size=config.batch_size,
        journal=journal,
    )


def _score_unit(unit: Unit, model: EvenMoELM, config: EvalConfig, announce: Announce | None) -> Scored:
    model.begin(unit.name)
    model.runner.progress = lambda done, total: announce(unit.name, done, total) if announce else None
    if announce:
        announce(unit.name, 0, 0)
    _seed_everything(config.seed)
    with no_bars():
        found = evaluate(
            model,
            dict(unit.loaded),
            limit=config.limit,
            bootstrap_iters=100,  # of use to metrics that are no mean alone, whose error we leave out
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=config.apply_chat_template,
        )
    results: Mapping[str, Any] = found["results"][unit.name]
    metric = main_metric(metrics_of(results), unit.choice.metric)
    items = item_scores(unit, found["samples"], metric)
    score = TaskScore(
        task=unit.name,
        metric=short_name(metric),
        num_fewshot=int(found["n-shot"].get(unit.name, 0)),
        num_items=len(items),
        score=float(results[metric]),
        stderr=stderr_of(unit, results, metric),
        items_file=f"items/{unit.name}.jsonl",
    )
    return score, items


def _mean(tasks: Sequence[TaskScore]) -> float | None:
    """The mean of shares, or of one and the same metric; None where scores are on different scales."""
    alike = len({task.metric for task in tasks}) == 1 or all(0 <= task.score <= 1 for task in tasks)
    return sum(task.score for task in tasks) / len(tasks) if alike else None


def _seed_everything(seed: int) -> None:
    """As lm-eval does before it builds requests: some tasks draw from the global generators."""
    random.seed(HARNESS_SEEDS["random"] + seed)
    np.random.seed(HARNESS_SEEDS["numpy"] + seed)
    torch.manual_seed(HARNESS_SEEDS["torch"] + seed)


def _how_formed(config: EvalConfig) -> dict[str, Any]:
    return {
        "size": config.batch_size,
        "of": "the requests of one task or group",
        "devices": batching.SHARES,
        "last": batching.LAST_BATCH,
        "padding": "not routed, not counted",
    }


def _versions(config: EvalConfig) -> dict[str, str]:
    """Versions that the scores may depend on, weights and task files among them by fingerprint."""
    harness = {package: version(package) for package in ("lm_eval", "datasets")}
    marks = {"weights": _digest(weights_mark(config.model)), "task_files": _digest(_task_files(config))}
    return versions() | harness | marks


def _task_files(config: EvalConfig) -> list[list[str]]:
    """Names and contents of our task files and the user's; lm-eval's own go by its version."""
    folders = [task_folder(), *([Path(config.include_path)] if config.include_path else [])]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix in TASK_SUFFIXES]
    return [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]


def _digest(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def _finished(config: EvalConfig, out: Path, known: Mapping[str, str]) -> EvalResult | None:
    """The result in `out`, where it is whole and of this very configuration and these versions."""
    try:
        result = read_eval_result(out)
    except (OSError, ValueError):
        return None
    same = result.config == config.model_dump(mode="json") and result.versions == dict(known)
    whole = same and all((out / task.items_file).is_file() for task in result.tasks)
    if whole:
        log.info("%s: the result is there already", out)
    return result if whole else None
