"""The part of `evenmoe profile` that measures predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from evenmoe.cli.console import progress_bar, stderr, stdout, write_json
from evenmoe.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from evenmoe.evaluation.prediction import PredictionStudy
    from evenmoe.evaluation.texts import Window
    from evenmoe.scheduling.predictors import TokenPrior

POOR_COVERAGE = 0.85
"""Share of tokens seen when learning under which the reader is told."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which predictors to measure, and what to learn from; `prior` is one that exists, and then nothing is learned."""

    names: Sequence[str]
    learning: Mapping[str, str]
    prior: TokenPrior | None


def plan_study(
    texts: Mapping[str, str],
    predictors: Sequence[str] | None,
    learn_text: Sequence[Path] | None,
    prior_path: Path | None,
) -> tuple[Mapping[str, str], Plan | None]:
    """The texts to measure on, and the plan; None without predictors.

    Raises ConfigError for an unknown predictor, options that do not go together and texts too short to be halved, and
    what `read_token_prior` and `read_texts` raise.
    """
    from evenmoe.evaluation.prediction import PREDICTORS, halves
    from evenmoe.evaluation.texts import read_texts
    from evenmoe.scheduling.predictors import read_token_prior

    if not predictors:
        for name, value in (("learn_text", learn_text), ("prior", prior_path)):
            if value:
                raise ConfigError(name, str(value), "left out without --predictor")
        return texts, None
    for name in predictors:
        check_choice("predictor", name, (*PREDICTORS, "all"))
    if prior_path is not None:
        if learn_text:
            raise ConfigError("learn_text", [str(path) for path in learn_text], "left out with --prior")
        every = [name for name in PREDICTORS if name != "history"]
        names = every if "all" in predictors else predictors
        return texts, Plan(names=names, learning={}, prior=read_token_prior(prior_path))
    names = PREDICTORS if "all" in predictors else predictors
    if learn_text:
        return texts, Plan(names=names, learning=read_texts(learn_text), prior=None)
    learning, measuring = halves(texts)
    return measuring, Plan(names=names, learning=learning, prior=None)


def study(
    plan: Plan,
    name: str,
    model: Any,
    tokenizer: Any,
    measured: Sequence[Window],
    window_tokens: int,
    out: Path,
    json: Path | None,
) -> None:
    """Learn, measure, save the prior and the scores, and print them."""
    from evenmoe.evaluation.prediction import study_predictors
    from evenmoe.evaluation.results import versions
    from evenmoe.evaluation.texts import cut_windows, num_fitting

    learned: list[Window] = []
    if plan.learning:
        fitting = num_fitting(plan.learning, tokenizer, window_tokens)
        learned = cut_windows(plan.learning, tokenizer, num_windows=fitting, window_tokens=window_tokens)
    with progress_bar() as progress:
        task = progress.add_task("learning", total=None)
        result = study_predictors(
            model,
            plan.names,
            measured,
            learned,
            prior=plan.prior,
            model_name=name,
            announce=lambda what, done, total: progress.update(
                task, completed=done, total=total, description=what
            ),
        )
    config = {"model": name, "window_tokens": window_tokens, "domains_learned": result.prior.domains}
    for path in filter(None, (out / "prediction.json", json)):
        write_json(path, {"config": config, "versions": versions(), **result.as_dict()})
    _print(result)
    if plan.prior is None:
        saved = result.prior.save(out / "token_prior.npz")
        stdout.print(f"Token prior: {saved}", soft_wrap=True, highlight=False)


def _print(result: PredictionStudy) -> None:
    what = f"cosine, and share found of the {result.num_top} busiest experts"
    table = _table(f"Predicted against true load of {result.measured_windows} windows: {what}")
    for column in ("predictor", "cosine", "worst layer", "busiest", "worst layer", "ms/request"):
        table.add_column(column, justify="left" if column == "predictor" else "right")
    for row in result.rows:
        cosines = (f"{row.cosine:.3f}", f"{row.cosine_L.min():.3f}")
        shares = (f"{row.overlap:.1%}", f"{row.overlap_L.min():.1%}")
        table.add_row(row.name, *cosines, *shares, f"{row.ms:.3f}")
    stdout.print(table)
    by_layer = _table("By layer")
    by_layer.add_column("layer", justify="right")
    plain = [row for row in result.rows if "," not in row.name]
    for row in plain:
        by_layer.add_column(row.name, justify="right")
    for layer in range(result.prior.num_layers):
        cells = (f"{row.cosine_L[layer]:.3f} {row.overlap_L[layer]:.0%}" for row in plain)
        by_layer.add_row(str(layer), *cells)
    stdout.print(by_layer)
    for reason in result.refused.values():
        stderr.print(reason, highlight=False)
    _warn(result)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _warn(result: PredictionStudy) -> None:
    """Say when the prior is not to be trusted on this text."""
    scores = {row.name: row.cosine for row in result.rows}
    if "token-prior" not in scores:
        return
    stdout.print(f"The prior knows {result.coverage:.1%} of the tokens measured on.", highlight=False)
    if result.coverage < POOR_COVERAGE:
        stderr.print("[bold yellow]warning:[/] many tokens are new to the prior: learn it on text like this")
    if scores["token-prior"] < scores.get("mean", 0.0):
        stderr.print(
            "[bold yellow]warning:[/] the mean predicts better than the prior: do not use it on this text"
        )
