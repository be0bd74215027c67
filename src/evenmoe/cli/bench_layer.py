"""`evenmoe bench layer`: one MoE layer of real dimensions, timed phase by phase under every policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from evenmoe.cli.bench_inputs import (
    GAMMAS,
    POLICIES,
    ClockOption,
    ExpertsOption,
    GammaOption,
    LoadLayerOption,
    LoadsOption,
    PolicyOption,
    RanksOption,
    RepeatsOption,
    ShapeOption,
    SkewOption,
    TagOption,
    ThreadsOption,
    TraceOption,
    check_ranks,
    link_for,
    placement_for,
    settings_for,
    shares_for,
)
from evenmoe.cli.console import progress_bar, stderr, stdout, write_json
from evenmoe.cli.figures import ROOM, Figure, figures_table, in_gamma, in_ms
from evenmoe.cli.options import JsonOption, SeedOption
from evenmoe.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from evenmoe.bench.block import Implementation
    from evenmoe.bench.emulated import Link
    from evenmoe.bench.job import LayerJob, Mode
    from evenmoe.bench.results import LayerResults, LayerRow
    from evenmoe.costs.machine import Machine

_WHAT = {
    "emulated": "emulated: each device's part is run alone on this machine, exchanges are computed",
    "ranks": "ranks: real processes on this machine",
    "predicted": "predicted: nothing is run, the cost model says it",
}
_PHASES = ("gate", "policy", "permute", "dispatch", "expert", "combine", "wait", "rest")


def layer(
    shape: ShapeOption = "olmoe",
    loads: LoadsOption = None,
    load_layer: LoadLayerOption = None,
    tag: TagOption = None,
    skew: SkewOption = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices. Default: the shape's layout in the paper.", min=1)
    ] = None,
    placement: Annotated[
        Path | None, typer.Option(help="A placement file; its layer of the same name, or its only one.")
    ] = None,
    gamma: GammaOption = GAMMAS,
    policy: PolicyOption = POLICIES,
    tokens: Annotated[
        int, typer.Option(help="Tokens of the batch, over all devices: 512 to 32768.", min=512, max=32768)
    ] = 2048,
    mode: Annotated[
        str | None,
        typer.Option(help="emulated, ranks or predicted. Default: ranks with --ranks, else emulated."),
    ] = None,
    ranks: RanksOption = None,
    clock: ClockOption = "wall",
    threads: ThreadsOption = 1,
    repeats: RepeatsOption = 3,
    dtype: Annotated[str, typer.Option(help="auto (the faster one here), float32 or bfloat16.")] = "auto",
    experts: ExpertsOption = "auto",
    machine: Annotated[
        str | None,
        typer.Option(help="A machine file or name: puts what it predicts beside what is measured."),
    ] = None,
    link_gb_s: Annotated[
        float | None,
        typer.Option(help="Emulated link, 10^9 bytes/s each way. Default: 12.5, or the machine's."),
    ] = None,
    link_latency_us: Annotated[
        float | None, typer.Option(help="Latency of one exchange. Default: 20, or the machine's.")
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
    trace: TraceOption = None,
) -> None:
    """Time one MoE layer of real dimensions with random weights, policy by policy and phase by phase.

    Example: evenmoe bench layer --shape olmoe --skew 5.6 --gamma 1.0
    """
    chosen_mode = _mode(mode, ranks, devices)
    if chosen_mode == "predicted" and trace:
        raise ConfigError("trace", str(trace), "left out in predicted mode: nothing is run")

    import torch

    from evenmoe.bench.block import fastest_implementation, torch_dtype
    from evenmoe.bench.job import LayerJob
    from evenmoe.costs import read_machine, read_shape

    check_choice("experts", experts, ("auto", "eager", "grouped_mm"))
    sizes, known = read_shape(shape), read_machine(machine) if machine else None
    link = link_for(chosen_mode, known, link_gb_s, link_latency_us)
    torch.set_num_threads(threads)
    job = LayerJob(
        shape=sizes,
        shares=shares_for(sizes, loads, load_layer, tag, skew, seed),
        num_tokens=tokens,
        placement=placement_for(sizes, placement, ranks or devices, load_layer),
        settings=settings_for(policy, gamma),
        dtype=torch_dtype(dtype, sizes),
        implementation=fastest_implementation() if experts == "auto" else cast("Implementation", experts),
        repeats=repeats,
        seed=seed,
    )
    results = _run(job, chosen_mode, known, link, threads, clock, trace)
    _print(results, job)
    if json:
        from evenmoe.evaluation.results import versions

        write_json(json, results.as_json() | {"versions": versions()})


def _mode(mode: str | None, ranks: int | None, devices: int | None) -> Mode:
    from evenmoe.bench.job import MODES

    chosen = mode or ("emulated" if ranks is None else "ranks")
    check_choice("mode", chosen, MODES)
    check_ranks(chosen, ranks, devices)
    return cast("Mode", chosen)


def _run(
    job: LayerJob,
    mode: Mode,
    machine: Machine | None,
    link: Link,
    threads: int,
    clock: str,
    trace: Path | None,
) -> LayerResults:
    from evenmoe.bench.layer import bench_layer
    from evenmoe.bench.trace import chrome_trace, write_trace

    with progress_bar() as progress:
        task = progress.add_task("drawing routing, building the layer", total=None)

        def announce(description: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=description)

        try:
            results, traced = bench_layer(
                job,
                mode,
                link=link,
                machine=machine,
                threads=threads,
                clock=clock,
                on_progress=announce,
            )
        except KeyboardInterrupt:
            progress.stop()
            stderr.print("Interrupted. Nothing is left running, and nothing was written.")
            raise typer.Exit(130) from None
    if trace:
        write_trace(chrome_trace(traced, results.config | {"mode": mode}), trace)
    return results


def _print(results: LayerResults, job: LayerJob) -> None:
    measured = results.mode != "predicted"
    compared = measured and results.rows[0].predicted_ms is not None
    label: Figure[LayerRow] = Figure("policy", lambda row: row.policy)
    outcome = [*_outcome(measured), *(_PREDICTED if compared else ())]
    stdout.print(figures_table(_title(results, job), label, outcome, results.rows, stdout.width))
    title = "Milliseconds by phase, mean over devices"
    if stdout.width >= ROOM:
        title = "Milliseconds by phase: of the device that waits least | mean over devices"
    phases = [_GAMMA, *(_phase(phase, stdout.width) for phase in _PHASES)]
    stdout.print(figures_table(title, label, phases, results.rows, stdout.width))
    stdout.print(
        f"Routing: {job.shares.source}; busiest expert {job.shares.skew:.2f} x the mean.", highlight=False
    )
    if results.mode == "emulated":
        config = results.config
        stdout.print(
            f"Link: {config['link_gb_s']:g} GB/s each way, {config['link_latency_us']:g} us per exchange; "
            "devices are as fast as this machine with the threads given.",
            highlight=False,
        )


_GAMMA: Figure[LayerRow] = Figure("γ", lambda row: in_gamma(row.gamma))
_PREDICTED: tuple[Figure[LayerRow], ...] = (
    Figure("predicted ms", lambda row: in_ms(row.predicted_ms or 0.0)),
    Figure("error", lambda row: f"{row.predicted_error or 0.0:+.1%}"),
    Figure("its speedup", lambda row: f"{row.predicted_speedup or 0.0:.2f}", wide=True),
)


def _outcome(measured: bool) -> list[Figure[LayerRow]]:
    best: list[Figure[LayerRow]] = [
        Figure("best ms", lambda row: in_ms(row.layer_ms_best), wide=True),
        Figure("of best", lambda row: f"{row.speedup_best:.2f}", wide=True),
    ]
    return [
        _GAMMA,
        Figure("layer ms", lambda row: in_ms(row.layer_ms)),
        Figure("speedup", lambda row: f"{row.speedup:.2f}"),
        *(best if measured else ()),
        Figure("by loads", lambda row: f"{row.load_speedup:.2f}"),
        Figure("kept", lambda row: f"{row.pairs_kept:.1%}"),
        Figure("run", lambda row: f"{row.pairs_run:.1%}", wide=True),
        Figure("peak", lambda row: f"{row.peak_to_mean:.2f}", wide=True),
        Figure("straggler", lambda row: f"{row.straggler_factor:.2f}"),
    ]


def _phase(phase: str, width: int) -> Figure[LayerRow]:
    def mean(row: LayerRow) -> str:
        return in_ms(row.phases_mean[phase])

    def both(row: LayerRow) -> str:
        return f"{in_ms(row.phases_busiest[phase])} | {mean(row)}"

    return Figure(phase, both if width >= ROOM else mean)


def _title(results: LayerResults, job: LayerJob) -> str:
    shape = job.shape
    return (
        f"{shape.name}: H {shape.hidden}, I {shape.intermediate}, E {shape.num_experts}, top-{shape.top_k}; "
        f"{job.num_tokens} tokens, {job.num_devices} devices, {job.dtype_name}\n"
        f"{_WHAT[results.mode]}"
    )
