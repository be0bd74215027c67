"""What `evenmoe eval` does: configurations from options, one evaluation after the other with progress, the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from evenmoe.cli.console import hide_loading_bars, progress_bar, stderr, stdout, write_json
from evenmoe.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from evenmoe.evaluation.scoring import EvalConfig, EvalResult

MULTIMODAL = "multimodal"
INTERRUPTED = "Interrupted. Finished batches are kept; the same command goes on from there."


def choose_tasks(model: str, suite: str | None, tasks: str | None) -> tuple[str, ...]:
    """The tasks to run: those named, which a suite named as well must have, or all of the suite.

    Raises ConfigError for neither, for an unknown suite and for a task that the suite does not have.
    """
    named = tuple(filter(None, (name.strip() for name in (tasks or "").split(","))))
    if suite == MULTIMODAL:
        from evenmoe.evaluation.vision.suites import multimodal_tasks

        return named or multimodal_tasks(model)
    if suite is None:
        if not named:
            raise ConfigError("suite", suite, "bundled, language or multimodal, or tasks given by --tasks")
        return named
    from evenmoe.evaluation.lm_eval.suites import SUITES

    check_choice("suite", suite, (*SUITES, MULTIMODAL))
    known = SUITES[suite].task_names
    for name in named:
        check_choice("tasks", name, known)
    return named or known


def eval_configs(policies: Sequence[str], gammas: Sequence[float], **settings: Any) -> list[EvalConfig]:
    """One configuration per policy, and per gamma where it has a capacity.

    Raises ConfigError for the first setting that is not allowed.
    """
    from evenmoe.evaluation.scoring import EvalConfig
    from evenmoe.evaluation.specs import parse_policies

    specs = parse_policies(policies)
    _check_batch_size(settings["batch_size"])
    if gammas and not any(spec.takes_gamma for spec in specs):
        raise ConfigError("gamma", list(gammas), f"left out: {', '.join(policies)} has no capacity")
    configs: list[EvalConfig] = []
    for spec in specs:
        given: Sequence[float | None] = gammas or (None,)
        for gamma in given if spec.takes_gamma else (None,):
            try:
                configs.append(EvalConfig(policy=spec, gamma=gamma, **settings))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"])
                raise ConfigError(field, first["input"], first["msg"]) from error
            configs[-1].build_policy()
    return configs


def _check_batch_size(size: str) -> None:
    if not size.isdigit():
        raise ConfigError("batch_size", size, "a fixed number: what shares a batch changes what is dropped")


def run_all(configs: Sequence[EvalConfig], out: Path, json: Path | None, *, check_repeat: bool) -> bool:
    """Run every configuration, print the table; returns whether all repeats, if asked for, agreed to the byte."""
    run, repeat = _runners(configs[0])
    if check_repeat and repeat is None:
        raise ConfigError("check_repeat", True, f"left out with the suite {MULTIMODAL}")
    hide_loading_bars()
    folders = [out] if len(configs) == 1 else [out / config.key for config in configs]
    results, same = [], True
    with progress_bar() as progress:
        bar = progress.add_task("starting", total=None)
        for config, folder in zip(configs, folders, strict=True):

            def announce(what: str, done: int, total: int, label: str = config.label) -> None:
                progress.update(bar, completed=done, total=total or None, description=f"{label}: {what}")

            try:
                results.append(run(config, folder, announce))
                if check_repeat and repeat:
                    same = _said_repeat(config, repeat(config, folder, announce)) and same
            except KeyboardInterrupt:
                progress.stop()
                stderr.print(INTERRUPTED)
                raise typer.Exit(130) from None
    _print_table(results, folders)
    if json:
        bodies = [result.model_dump(mode="json") for result in results]
        write_json(json, bodies[0] if len(bodies) == 1 else {"evaluations": bodies})
    return same


def _runners(config: EvalConfig) -> tuple[Callable[..., EvalResult], Callable[..., list[str]] | None]:
    """What evaluates a configuration, and what repeats it if anything; policies of one command share one model."""
    if config.suite == MULTIMODAL:
        from evenmoe.evaluation.vision.run import run_multimodal

        return run_multimodal, None
    from evenmoe.evaluation.lm_eval import run_lm_eval
    from evenmoe.evaluation.lm_eval.run import check_repeat, load_configured

    load_model = cache(lambda: load_configured(config))
    return partial(run_lm_eval, load_model=load_model), partial(check_repeat, load_model=load_model)


def _said_repeat(config: EvalConfig, found: Sequence[str]) -> bool:
    """Whether the first task gave the same bytes again, said aloud."""
    what = f"{config.label}: {config.tasks[0]} run twice"
    if found:
        stderr.print(f"[bold red]{escape(what)} differs in {escape(', '.join(found))}[/]", highlight=False)
    else:
        stderr.print(f"{what}: the same bytes.", highlight=False, markup=False)
    return not found


def _print_table(results: Sequence[EvalResult], folders: Sequence[Path]) -> None:
    from evenmoe.evaluation.scoring.compare import compare_evaluations
    from evenmoe.evaluation.scoring.evaluations import read_evaluation
    from evenmoe.reporting.quality_tables import comparison_tables
    from evenmoe.reporting.score_tables import score_table

    is_comparison = len(results) > 1 and any(
        result.config["policy"]["name"] == "baseline" for result in results
    )
    if is_comparison:
        comparison = compare_evaluations([read_evaluation(folder) for folder in folders])
        for table in comparison_tables(comparison, stdout.width):
            stdout.print(table)
    else:
        for result in results:
            stdout.print(score_table(result))
    places = ", ".join(str(folder / "eval.json") for folder in folders)
    stdout.print(f"Data: {places}", soft_wrap=True, highlight=False, markup=False)
