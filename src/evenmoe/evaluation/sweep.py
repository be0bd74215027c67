"""Measure a model under many policies: one row of quality and load figures each, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evenmoe.evaluation.batches import make_batches, plan_batches
from evenmoe.evaluation.config import SweepConfig
from evenmoe.evaluation.partial import PartialRows
from evenmoe.evaluation.quality import Quality, Shares, measure_quality
from evenmoe.evaluation.results import Results, Row, versions
from evenmoe.evaluation.shares import assign_shares, fingerprint
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.evaluation.texts import Window, cut_windows, num_fitting
from evenmoe.loads import ExpertLoads, write_loads
from evenmoe.models.attach import attach
from evenmoe.placement import Placement

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

BASELINE = PolicySpec(name="baseline")


@dataclass(frozen=True)
class Point:
    """One row to be measured: a policy at one gamma (None where it has no capacity)."""

    spec: PolicySpec
    gamma: float | None

    @property
    def key(self) -> str:
        """A name for files, unique within a sweep."""
        options = "".join(f"-{value}" for value in self.spec.options.values())
        gamma = "" if self.gamma is None else f"-gamma{self.gamma:g}"
        return f"{self.spec.name}{options}{gamma}"

    @property
    def label(self) -> str:
        """A name for people, as in "Fill, γ 1.5"."""
        return ", ".join(filter(None, (self.spec.family, self.spec.setting(self.gamma))))


Announce = Callable[[Point, int, int], None]
"""Called before each point that must be measured: the point, how many are done, how many there are."""


def points(config: SweepConfig) -> list[Point]:
    """The rows of a sweep in order: the baseline first, always, then each policy at each gamma.

    Every policy is built once here, so that a wrong option is an error before anything runs.
    """
    found = [Point(BASELINE, None)]
    for spec in config.policies:
        gammas: Sequence[float | None] = config.gammas if spec.takes_gamma else (None,)
        found += [Point(spec, gamma) for gamma in gammas if spec != BASELINE]
    for point in found:
        point.spec.build(point.gamma, config.common_options)
    return found


def run_sweep(
    config: SweepConfig,
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, str],
    out: Path,
    announce: Announce | None = None,
) -> Results:
    """Measure every point of `config` and return the results; loads go to `out`/loads as they are measured.

    Finished rows are kept in `out` until the sweep is complete, so an interrupted sweep goes on where it
    stopped. Raises ConfigError for texts that are too short and for policies the model cannot take.
    """
    todo = points(config)
    config, batches = _prepare(config, tokenizer, texts)
    (out / "loads").mkdir(parents=True, exist_ok=True)
    partial = PartialRows(out, {"config": config.model_dump(mode="json"), "versions": versions()})
    model.eval()
    shares = assign_shares(config, model, batches)
    _warm_up(model, batches[0])
    base: Quality | None = None
    rows: list[Row] = []
    for done, point in enumerate(todo):
        kept = partial.get(point.key)
        if kept is None or base is None:
            if announce:
                announce(point, done, len(todo))
            quality, loads = _measure(point, config, model, batches, shares)
            base = base or quality
            row = _row(point, config, quality, base, loads)
            write_loads(loads, out / row.loads_file)
            partial.add(point.key, row)
            kept = row
        rows.append(kept)
    resolved = config.model_dump(mode="json")
    results = Results(kind="sweep", config=resolved, seed=config.seed, versions=versions(), rows=tuple(rows))
    results.write(out / "results.json")
    partial.clear()
    return results


def _prepare(
    config: SweepConfig, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, str]
) -> tuple[SweepConfig, list[list[Window]]]:
    """The configuration with nothing left open, and its batches."""
    fitting = num_fitting(texts, tokenizer, config.window_tokens)
    num_windows, batch_size = plan_batches(fitting, config.num_windows, config.batch_size)
    windows = cut_windows(texts, tokenizer, num_windows=num_windows, window_tokens=config.window_tokens)
    batches = make_batches(windows, batch_size, config.mix, config.seed)
    resolved: dict[str, object] = {"num_windows": num_windows, "batch_size": batch_size}
    if config.prior is not None:
        resolved["prior_sha256"] = fingerprint(config.prior)
    return config.model_copy(update=resolved), batches


def _warm_up(model: torch.nn.Module, batch: Sequence[Window]) -> None:
    """One forward that is not counted: the first allocates memory, and would make the baseline look slow."""
    measure_quality(model, [batch])


def _measure(
    point: Point,
    config: SweepConfig,
    model: torch.nn.Module,
    batches: Sequence[Sequence[Window]],
    shares: Shares | None,
) -> tuple[Quality, ExpertLoads]:
    policy = point.spec.build(point.gamma, config.common_options)
    placement = None if config.placement is None else Placement.of(config.placement, config.num_devices)
    with attach(
        model, policy, num_devices=config.num_devices, placement=placement, seed=config.seed
    ) as attached:
        quality = measure_quality(model, batches, attached, shares=shares)
        return quality, attached.loads


def _row(point: Point, config: SweepConfig, quality: Quality, base: Quality, loads: ExpertLoads) -> Row:
    settings: dict[str, Any] = point.spec.build(point.gamma, config.common_options).describe()
    change, change_stderr = quality.accuracy_change(base)
    return Row(
        key=point.key,
        label=point.label,
        family=point.spec.family,
        setting=point.spec.setting(point.gamma),
        policy=point.spec.name,
        gamma=point.gamma,
        scope=settings.get("scope"),
        level=settings.get("level"),
        settings=settings,
        next_token_accuracy=quality.next_token_accuracy,
        accuracy_change=change,
        accuracy_change_stderr=change_stderr,
        bits_per_byte=quality.bits_per_byte,
        drop_rate=loads.drop_rate,
        relative_work=loads.relative_work,
        peak_to_mean_before=loads.peak_to_mean_before,
        peak_to_mean_after=loads.peak_to_mean_after,
        straggler_factor=loads.straggler_factor,
        gate_mass_kept=loads.gate_mass_kept,
        tokens_without_expert=loads.tokens_without_expert,
        seconds=quality.seconds,
        accuracy_by_domain=quality.accuracy_by_domain(),
        loads_file=f"loads/{point.key}.json",
    )
