"""`evenmoe sweep`: policies and gammas on any model and text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli.options import (
    BatchSizeOption,
    DevicesOption,
    DtypeOption,
    JsonOption,
    MixOption,
    ModelArgument,
    OutOption,
    PlacementOption,
    QuantizationOption,
    SeedOption,
    TextOption,
    WindowsOption,
    WindowTokensOption,
)
from evenmoe.cli.running import devices_and_placement, make_config, run_and_report, texts_for

PolicyOption = Annotated[
    list[str],
    typer.Option("--policy", help="name or name:option=value, as in token_drop:keep=random (repeatable)."),
]
GammaOption = Annotated[list[float], typer.Option("--gamma", help="Capacity factor (repeatable).")]


def sweep(
    model: ModelArgument,
    policy: PolicyOption = ["token_drop", "expanded_drop", "fill"],  # noqa: B006 (typer copies it)
    gamma: GammaOption = [2.0, 1.5, 1.0, 0.5],  # noqa: B006
    text: TextOption = None,
    out: OutOption = Path("out/sweep"),
    devices: DevicesOption = None,
    placement: PlacementOption = None,
    scope: Annotated[str, typer.Option(help="local: per source device; global: per batch.")] = "local",
    level: Annotated[str, typer.Option(help="Limit each expert or each device.")] = "expert",
    isolation: Annotated[str, typer.Option(help="batch, request or strict.")] = "batch",
    windows: WindowsOption = None,
    window_tokens: WindowTokensOption = 256,
    batch_size: BatchSizeOption = None,
    mix: MixOption = "mixed",
    assign: Annotated[
        str, typer.Option(help="The device of each window of a batch: arrival, random or balanced.")
    ] = "arrival",
    loads_from: Annotated[
        str | None, typer.Option(help="Loads that balanced goes by: predicted (by --prior) or true.")
    ] = None,
    prior: Annotated[
        Path | None, typer.Option(help="A token prior (evenmoe profile --predictor token-prior).")
    ] = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure quality and evenness of MODEL under each policy and gamma; writes data, plots and a report.

    An interrupted sweep goes on where it stopped when the same command is given again.

    Example: evenmoe sweep bundled:text --policy fill --policy token_drop:keep=random --gamma 1.5
    """
    from evenmoe.evaluation.specs import parse_policies

    texts, names = texts_for(text)
    num_devices, placed = devices_and_placement(devices, placement)
    config = make_config(
        model=model,
        policies=parse_policies(policy),
        gammas=tuple(gamma),
        scope=scope,
        level=level,
        isolation=isolation,
        num_devices=num_devices,
        placement=None if placed is None else placed.rows,
        texts=names,
        num_windows=windows,
        window_tokens=window_tokens,
        batch_size=batch_size,
        mix=mix,
        assign=assign,
        loads_from=loads_from or _default_loads(assign, prior),
        prior=None if prior is None else str(prior),
        dtype=dtype,
        quantization=quantization,
        seed=seed,
    )
    title = f"{model}, {num_devices} virtual devices" + _shares_text(config.assign, config.loads_from)
    run_and_report(config, texts, out, json, title)


def _default_loads(assign: str, prior: Path | None) -> str | None:
    """Predicted where a prior says what is expected; else true, where loads are needed at all."""
    if prior is not None:
        return "predicted"
    return "true" if assign == "balanced" else None


def _shares_text(assign: str, loads_from: str | None) -> str:
    if assign == "arrival":
        return ""
    return f", shares {assign}" + (f" by {loads_from} loads" if loads_from else "")
