"""`evenmoe break-even`: from which number of tokens on a policy pays on a machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from evenmoe.cli.console import stdout, write_json
from evenmoe.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from evenmoe.costs.break_even import BreakEven


def break_even(
    machine: Annotated[
        str, typer.Option(help="h100-node, h20-node, or a file of evenmoe calibrate.")
    ] = "h100-node",
    shape: Annotated[str, typer.Option(help="A shape's name, or a model's config.json.")] = "olmoe",
    loads: Annotated[Path | None, typer.Option(help="A loads file. Default: log-normal loads.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the loads file. Default: the middle.")] = None,
    tag: Annotated[str | None, typer.Option(help="Domain of the loads file. Default: all together.")] = None,
    skew: Annotated[
        float | None,
        typer.Option(help="Make the busiest expert this many times the mean. Default without loads: 4."),
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Devices. Default: the shape's.", min=1)] = None,
    gamma: Annotated[float, typer.Option(help="Capacity factor of Token Drop.")] = 1.0,
    fraction: Annotated[float, typer.Option(help="Share of the experts that Expert Drop skips.")] = 0.1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Predict from which number of tokens on Token Drop and Expert Drop pay: where balance helps, and where it costs.

    Example: evenmoe break-even --machine h20-node --shape olmoe --devices 1
    """
    from evenmoe.bench.shares import feasible, resampled, shares_of_loads, synthetic_shares, with_skew
    from evenmoe.costs import read_machine, read_shape
    from evenmoe.costs.break_even import break_even as predict
    from evenmoe.costs.break_even import expert_drop_limit, token_drop_limit
    from evenmoe.errors import ConfigError
    from evenmoe.loads import read_loads

    sizes, known = read_shape(shape), read_machine(machine)
    if loads is None:
        if layer is not None or tag is not None:
            raise ConfigError("loads", None, "a loads file, where --layer or --tag is given")
        shares = synthetic_shares(sizes.num_experts, sizes.top_k, 4.0 if skew is None else skew)
    else:
        found = shares_of_loads(read_loads(loads), layer=layer, tag=tag)
        shares = resampled(found, sizes.num_experts, seed)
        shares = feasible(shares, sizes.top_k) if skew is None else with_skew(shares, sizes.top_k, skew)
    limits = {
        "token_drop": token_drop_limit(sizes, gamma),
        "expert_drop": expert_drop_limit(sizes, fraction),
    }
    results = [
        predict(
            known,
            sizes,
            policy=policy,
            limit=limit,
            share_E=shares.share_E,
            placement_holds_DE=sizes.contiguous_holds(devices or sizes.num_devices),
            dtype=cast(Any, dtype),
            seed=seed,
        )
        for policy, limit in limits.items()
    ]
    title = (
        f"{sizes.name} on {devices or sizes.num_devices} device(s) of {known.name} ({known.source}), {dtype}"
    )
    _print(results, title)
    stdout.print(f"Loads: {shares.source}; busiest expert {shares.skew:.2f} x the mean.", highlight=False)
    if json:
        body: dict[str, Any] = {
            "machine": known.name,
            "source": known.source,
            "shape": sizes.describe(),
            "loads": shares.source,
            "devices": devices or sizes.num_devices,
            "gamma": gamma,
            "fraction": fraction,
            "dtype": dtype,
            "seed": seed,
            "policies": [_data(result) for result in results],
        }
        write_json(json, body)


def _data(result: BreakEven) -> dict[str, Any]:
    rows = [dataclasses.asdict(row) | {"speedup": row.speedup} for row in result.rows]
    return {"policy": result.policy, "pays_from_tokens": result.tokens, "rows": rows}


def _print(results: list[BreakEven], title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("tokens", justify="right")
    table.add_column("no limit, ms", justify="right")
    table.add_column("experts touched", justify="right")
    for result in results:
        table.add_column(result.policy.replace("_", " ") + ": speedup", justify="right", overflow="fold")
        table.add_column("touched", justify="right")
    for rows in zip(*(result.rows for result in results), strict=True):
        cells = [str(rows[0].tokens), f"{rows[0].baseline_ms:.3g}", f"{rows[0].experts_touched_before:.1f}"]
        for row in rows:
            cells += [f"{row.speedup:.2f}", f"{row.experts_touched:.1f}"]
        table.add_row(*cells)
    stdout.print(table)
    for result in results:
        pays = "at no number of tokens" if result.tokens is None else f"from {result.tokens} tokens on"
        stdout.print(f"{result.policy} pays {pays}.", highlight=False)
