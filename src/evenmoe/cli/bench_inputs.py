"""What the benches of a layer and of a model are given in common, from the command line's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from evenmoe.bench.emulated import Link
    from evenmoe.bench.job import Setting
    from evenmoe.bench.shares import Shares
    from evenmoe.costs import LayerShape
    from evenmoe.costs.machine import Machine
    from evenmoe.placement import Placement

GAMMAS = [2.0, 1.5, 1.0]
POLICIES = ["token_drop", "expanded_drop", "fill"]

ShapeOption = Annotated[
    str, typer.Option(help="olmoe, deepseek-v2-lite, qwen1.5-moe, mixtral, or a model's config.json.")
]
LoadsOption = Annotated[
    Path | None, typer.Option(help="A loads file: routing is drawn so that per-expert counts match it.")
]
LoadLayerOption = Annotated[
    str | None, typer.Option("--layer", help="Layer of the loads file. Default: the middle one.")
]
TagOption = Annotated[str | None, typer.Option(help="Domain of the loads file. Default: all together.")]
SkewOption = Annotated[
    float | None,
    typer.Option(
        help="Make the busiest expert this many times the mean: of the file's, or of log-normal, loads."
    ),
]
GammaOption = Annotated[list[float], typer.Option(help="Capacity factor (repeatable).")]
PolicyOption = Annotated[list[str], typer.Option(help="NAME or NAME:option=value,... (repeatable).")]
RepeatsOption = Annotated[int, typer.Option(help="Counted passes of every setting; they take turns.", min=1)]
ClockOption = Annotated[
    str,
    typer.Option(help="wall, or cpu: CPU time of emulated devices, which a busy machine disturbs less."),
]
ThreadsOption = Annotated[int, typer.Option(help="Threads of each device.", min=1)]
ExpertsOption = Annotated[
    str, typer.Option(help="transformers' way to run experts: auto, eager or grouped_mm.")
]
RanksOption = Annotated[int | None, typer.Option(help="Real processes, one per device.", min=2)]
TraceOption = Annotated[
    Path | None, typer.Option(help="Also write a Chrome trace (chrome://tracing, ui.perfetto.dev).")
]


def check_ranks(mode: str, ranks: int | None, devices: int | None) -> None:
    """Raise ConfigError unless real ranks, and only they, are given a number of processes."""
    if mode == "ranks" and ranks is None:
        raise ConfigError("ranks", None, "--ranks N, how many processes to run")
    if mode != "ranks" and ranks is not None:
        raise ConfigError("ranks", ranks, f"left out in {mode} mode, where --devices says how many")
    if ranks is not None and devices not in (None, ranks):
        raise ConfigError("devices", devices, f"the {ranks} ranks, or left out")


def link_for(mode: str, machine: Machine | None, gb_s: float | None, latency_us: float | None) -> Link:
    """Return the emulated link. Raises ConfigError for one that could not act, or beside a machine's."""
    from evenmoe.bench.emulated import DEFAULT_LATENCY_US, DEFAULT_LINK_GB_S, Link

    for name, value in (("link-gb-s", gb_s), ("link-latency-us", latency_us)):
        if value is not None and mode != "emulated":
            raise ConfigError(
                name, value, "left out unless the mode is emulated: nothing else has a computed link"
            )
        if value is not None and machine is not None:
            raise ConfigError(name, value, "left out with --machine, whose link is used")
    if machine is not None and mode == "emulated":
        return Link.of_machine(machine)
    return Link.of(
        DEFAULT_LINK_GB_S if gb_s is None else gb_s, DEFAULT_LATENCY_US if latency_us is None else latency_us
    )


def shares_for(
    sizes: LayerShape, path: Path | None, layer: str | None, tag: str | None, skew: float | None, seed: int
) -> Shares:
    """Return the shares to draw routing from: of a loads file, or log-normal ones of a given skew.

    Raises ConfigError where neither is given, and for a layer or tag without a file.
    """
    from evenmoe.bench.shares import (
        feasible,
        resampled,
        shares_of_loads,
        shuffled,
        synthetic_shares,
        with_skew,
    )
    from evenmoe.loads import read_loads

    if path is None:
        if layer is not None or tag is not None:
            raise ConfigError("loads", None, "a loads file, where --layer or --tag is given")
        if skew is None:
            raise ConfigError(
                "loads", None, "a loads file, or --skew with how many times the mean the busiest gets"
            )
        return shuffled(synthetic_shares(sizes.num_experts, sizes.top_k, skew), seed)
    shares = resampled(shares_of_loads(read_loads(path), layer=layer, tag=tag), sizes.num_experts, seed)
    return feasible(shares, sizes.top_k) if skew is None else with_skew(shares, sizes.top_k, skew)


def placement_for(sizes: LayerShape, path: Path | None, devices: int | None, layer: str | None) -> Placement:
    """Return one layer's placement: of a file, or contiguous shares on `devices`, None: the shape's layout.

    Raises ConfigError for another number of devices than the file's, and for a layer that it does not have.
    """
    from evenmoe.bench.routed import contiguous_placement
    from evenmoe.placement import Placement, read_placement

    if path is None:
        return contiguous_placement(sizes.num_experts, devices or sizes.num_devices)
    whole = read_placement(path)
    if devices not in (None, whole.num_devices):
        raise ConfigError("devices", devices, f"the {whole.num_devices} of the placement, or left out")
    if layer is not None and layer not in whole.layers:
        raise ConfigError("layer", layer, "a layer of the placement file: " + ", ".join(whole.layers))
    index = whole.layers.index(layer) if layer is not None else whole.num_layers // 2
    return Placement(
        num_devices=whole.num_devices,
        holders_LE=(whole.holders_LE[index],),
        layers=(whole.layers[index],),
        method=whole.method or path.name,
    )


def settings_for(policies: Sequence[str], gammas: Sequence[float]) -> tuple[Setting, ...]:
    """Return the baseline, then each policy at each gamma that it takes. Raises ConfigError for one named twice."""
    from evenmoe.bench.job import BASELINE, Setting
    from evenmoe.evaluation.specs import parse_policies
    from evenmoe.routing import Baseline

    if len(set(gammas)) < len(gammas):
        raise ConfigError("gamma", list(gammas), "each value once")
    settings = [Setting(label="No limit", policy=Baseline())]
    for spec in parse_policies(policies):
        if spec.name == BASELINE:
            continue  # the first row in any case
        for gamma in gammas if spec.takes_gamma else (None,):
            label = spec.family if gamma is not None else f"{spec.family} {spec.setting(None)}".strip()
            settings.append(Setting(label=label, policy=spec.build(gamma), gamma=gamma))
    return tuple(settings)
