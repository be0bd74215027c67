"""`evenmoe bench saving`: what dropping saves on one device, beside transformers' fastest layer in the same run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from evenmoe.cli.bench_inputs import (
    GAMMAS,
    POLICIES,
    GammaOption,
    LoadLayerOption,
    LoadsOption,
    PolicyOption,
    RepeatsOption,
    ShapeOption,
    SkewOption,
    TagOption,
    ThreadsOption,
    placement_for,
    settings_for,
    shares_for,
)
from evenmoe.cli.console import progress_bar, stdout, write_json
from evenmoe.cli.figures import Figure, figures_table, in_gamma, in_ms
from evenmoe.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from evenmoe.bench.saving import SavingRow


def saving(
    shape: ShapeOption = "olmoe",
    loads: LoadsOption = None,
    load_layer: LoadLayerOption = None,
    tag: TagOption = None,
    skew: SkewOption = None,
    devices: Annotated[
        int | None, typer.Option(help="Virtual devices. Default: the shape's layout in the paper.", min=1)
    ] = None,
    gamma: GammaOption = GAMMAS,
    policy: PolicyOption = POLICIES,
    tokens: Annotated[int, typer.Option(help="Tokens of the batch.", min=64)] = 4096,
    threads: ThreadsOption = 1,
    repeats: RepeatsOption = 3,
    dtype: Annotated[str, typer.Option(help="auto (the faster one here), float32 or bfloat16.")] = "auto",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Time one whole MoE layer (route, pack, experts, combine) with dropping against the plain one, in one process.

    Example: evenmoe bench saving --shape olmoe --skew 6.2
    """
    import torch

    from evenmoe.bench.block import torch_dtype
    from evenmoe.bench.job import LayerJob
    from evenmoe.bench.saving import bench_saving
    from evenmoe.costs import read_shape
    from evenmoe.evaluation.results import versions

    sizes = read_shape(shape)
    torch.set_num_threads(threads)
    job = LayerJob(
        shape=sizes,
        shares=shares_for(sizes, loads, load_layer, tag, skew, seed),
        num_tokens=tokens,
        placement=placement_for(sizes, None, devices, None),
        settings=settings_for(policy, gamma),
        dtype=torch_dtype(dtype, sizes),
        repeats=repeats,
        seed=seed,
    )
    with progress_bar() as progress:
        task = progress.add_task("building the layer", total=None)

        def announce(description: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=description)

        rows = bench_saving(job, announce)
    title = f"{sizes.name}, {tokens} tokens, {threads} thread(s), {job.dtype_name}"
    stdout.print(figures_table(title, _LABEL, _FIGURES, rows, stdout.width))
    stdout.print(f"Routing: {job.shares.source}; busiest expert {job.shares.skew:.2f} x the mean.")
    if json:
        body = {
            "config": job.describe() | {"threads": threads},
            "versions": versions(),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        write_json(json, body)


_LABEL: Figure[SavingRow] = Figure("layer", lambda row: row.label)
_FIGURES: tuple[Figure[SavingRow], ...] = (
    Figure("γ", lambda row: in_gamma(row.gamma)),
    Figure("experts by", lambda row: row.implementation),
    Figure("pairs run", lambda row: f"{row.pairs_run:.3f}"),
    Figure("median ms", lambda row: in_ms(row.layer_ms)),
    Figure("of plain", lambda row: f"{row.ratio:.3f}"),
    Figure("beyond pairs", lambda row: f"{row.own_share:+.3f}"),
)
