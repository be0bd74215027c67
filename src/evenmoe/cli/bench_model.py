"""`evenmoe bench model`: a whole model under every policy, prefill and decode apart."""

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
    SkewOption,
    TagOption,
    ThreadsOption,
    TraceOption,
    check_ranks,
    link_for,
    settings_for,
)
from evenmoe.cli.bench_model_jobs import Asked, Drawn, random_job, trained_job
from evenmoe.cli.console import progress_bar, stderr, stdout, write_json
from evenmoe.cli.figures import Figure, figures_table, in_gamma, in_ms
from evenmoe.cli.options import JsonOption, SeedOption
from evenmoe.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from rich.table import Table

    from evenmoe.bench.emulated import Link
    from evenmoe.bench.model_job import ModelJob, ModelMode, Part
    from evenmoe.bench.model_results import ModelResults, ModelRow

_WHAT = {
    "emulated": "emulated: each device's rows run alone on this machine, exchanges are computed",
    "ranks": "ranks: real processes on this machine",
}
_PHASES = ("gate", "policy", "permute", "dispatch", "expert", "combine", "wait", "rest")


def model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="bundled:text, a folder with a checkpoint, or random weights of real sizes: olmoe, deepseek-v2-lite, "
            "qwen1.5-moe, mixtral.",
        ),
    ],
    ranks: RanksOption = None,
    mode: Annotated[
        str | None, typer.Option(help="emulated or ranks. Default: ranks with --ranks, else emulated.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices. Default: the sizes' layout in the paper, 8.", min=1)
    ] = None,
    gamma: GammaOption = GAMMAS,
    policy: PolicyOption = POLICIES,
    batch_size: Annotated[int, typer.Option(help="Rows of each device.", min=1)] = 4,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each row's prefill.", min=1)] = 128,
    new_tokens: Annotated[int, typer.Option(help="Decode steps; 0: prefill alone.", min=0)] = 16,
    layers: Annotated[
        int | None, typer.Option(help="MoE layers of a model of random weights. Default: 2.", min=1)
    ] = None,
    loads: LoadsOption = None,
    load_layer: LoadLayerOption = None,
    tag: TagOption = None,
    skew: SkewOption = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="A UTF-8 text file for a trained model (repeatable). Default: the text that ships."
        ),
    ] = None,
    placement: Annotated[Path | None, typer.Option(help="A placement file.")] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(
            help="Least tokens of a forward, over all devices, for a policy to act. Default: E / K each.",
            min=1,
        ),
    ] = None,
    repeats: RepeatsOption = 5,
    clock: ClockOption = "wall",
    threads: ThreadsOption = 1,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: the faster one here, or the checkpoint's own.")
    ] = "auto",
    experts: ExpertsOption = "auto",
    link_gb_s: Annotated[
        float | None, typer.Option(help="Emulated link, 10^9 bytes/s each way. Default: 12.5.")
    ] = None,
    link_latency_us: Annotated[
        float | None, typer.Option(help="Latency of one emulated exchange. Default: 20.")
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
    trace: TraceOption = None,
) -> None:
    """Time a model end to end under each policy, prefill and decode apart, and relate that to its MoE layers' share.

    Example: evenmoe bench model olmoe --skew 5.6 --policy token_drop --gamma 1.0
    """
    from evenmoe.bench.model_job import MODEL_MODES
    from evenmoe.costs import SHAPES

    chosen = mode or ("emulated" if ranks is None else "ranks")
    check_choice("mode", chosen, MODEL_MODES)
    check_ranks(chosen, ranks, devices)
    check_choice("experts", experts, ("auto", "eager", "grouped_mm"))
    link = link_for(chosen, None, link_gb_s, link_latency_us)

    import torch

    torch.set_num_threads(threads)
    asked = Asked(
        devices=ranks or devices,
        rows=batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        placement=placement,
        settings=settings_for(policy, gamma),
        dtype=dtype,
        experts=experts,
        min_tokens=min_tokens,
        repeats=repeats,
        seed=seed,
    )
    drawn = Drawn(layers=layers, loads=loads, layer=load_layer, tag=tag, skew=skew)
    if name in SHAPES:
        if text:
            raise ConfigError("text", str(text[0]), f"left out for {name}: random weights read no text")
        job = random_job(name, asked, drawn)
    else:
        for option, value in vars(drawn).items():
            if value is not None:
                allowed = f"left out for {name}, which has its own layers and routing"
                raise ConfigError(option, str(value), allowed)
        job = trained_job(name, asked, text)
    results = _run(job, cast("ModelMode", chosen), link, threads, clock, trace)
    _print(results, job)
    if json:
        from evenmoe.evaluation.results import versions

        write_json(json, results.as_json() | {"versions": versions()})


def _run(
    job: ModelJob, mode: ModelMode, link: Link, threads: int, clock: str, trace: Path | None
) -> ModelResults:
    from evenmoe.bench.model import bench_model
    from evenmoe.bench.trace import chrome_trace, write_trace

    with progress_bar() as progress:
        task = progress.add_task("drawing routing, building the model", total=None)

        def announce(description: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=description)

        try:
            results, traced = bench_model(
                job, mode, link=link, threads=threads, clock=clock, on_progress=announce
            )
        except KeyboardInterrupt:
            progress.stop()
            stderr.print("Interrupted. Nothing is left running, and nothing was written.")
            raise typer.Exit(130) from None
    if trace:
        write_trace(chrome_trace(traced, results.config | {"mode": mode}), trace)
    return results


def _print(results: ModelResults, job: ModelJob) -> None:
    config = results.config
    stdout.print(
        f"{config['model']}; {job.num_devices} devices with {job.rows_per_device} rows each, {config['dtype']}\n"
        f"{_WHAT[results.mode]}",
        highlight=False,
    )
    for part in job.parts:
        stdout.print(_outcome_table(results, part, job))
        stdout.print(_phase_table(results, part))
    stdout.print(f"Routing: {config['routing']}. Time: {results.composition}.", highlight=False)


_LABEL: Figure[ModelRow] = Figure("policy", lambda row: row.policy)
_GAMMA: Figure[ModelRow] = Figure("γ", lambda row: in_gamma(row.gamma))
_OUTCOME: tuple[Figure[ModelRow], ...] = (
    _GAMMA,
    Figure("ms", lambda row: in_ms(row.total_ms)),
    Figure("low-high", lambda row: f"{in_ms(row.total_ms_low)}-{in_ms(row.total_ms_high)}", wide=True),
    Figure("speedup", lambda row: f"{row.speedup:.2f}"),
    Figure("implied", lambda row: f"{row.implied_speedup:.2f}", wide=True),
    Figure("MoE share", lambda row: f"{row.moe_share:.0%}"),
    Figure("layer speedup", lambda row: f"{row.layer_speedup:.2f}"),
    Figure("by loads", lambda row: f"{row.load_speedup:.2f}"),
    Figure("kept", lambda row: f"{row.pairs_kept:.1%}", wide=True),
    Figure("acted", lambda row: f"{row.applied:.0%}"),
    Figure("straggler", lambda row: f"{row.straggler_factor:.2f}", wide=True),
)


def _outcome_table(results: ModelResults, part: Part, job: ModelJob) -> Table:
    title = (
        f"Prefill of {job.num_prompt} tokens per row"
        if part == "prefill"
        else f"Decode, mean of {job.num_calls - 1} steps of one token per row"
    )
    return figures_table(title, _LABEL, _OUTCOME, results.part(part), stdout.width)


def _phase_table(results: ModelResults, part: Part) -> Table:
    title = f"{part.capitalize()}: milliseconds by phase of the MoE layers, mean over devices, and outside"
    outside: Figure[ModelRow] = Figure("outside", lambda row: in_ms(row.outside_ms))
    figures = [_GAMMA, *map(_phase, _PHASES), outside]
    return figures_table(title, _LABEL, figures, results.part(part), stdout.width)


def _phase(phase: str) -> Figure[ModelRow]:
    return Figure(phase, lambda row: in_ms(row.phases_mean[phase]))
