"""`evenmoe simulate live`: the batch scheduler drives a real model on this machine, and the simulator foretells it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from evenmoe.cli.bench_inputs import ThreadsOption
from evenmoe.cli.console import progress_bar, stderr, stdout, write_json
from evenmoe.cli.options import (
    DevicesOption,
    DtypeOption,
    JsonOption,
    PlacementOption,
    QuantizationOption,
    SeedOption,
)
from evenmoe.cli.running import devices_and_placement, load_model_and_tokenizer, path_of
from evenmoe.cli.scheduler_options import (
    IntervalOption,
    MaxBatchOption,
    PassedOverOption,
    SchedulerOption,
    TriggerOption,
    WindowOption,
    scheduler_config,
)
from evenmoe.cli.simulate_live_inputs import Given, predictor_of, prompts_of
from evenmoe.cli.simulate_live_tables import print_results
from evenmoe.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from evenmoe.live.study import LiveResults, LiveSettings

STRATEGIES = ["fcfs", "auto", "peak_excess"]
CLOCKS = ("wall", "cpu")


def live(
    model: Annotated[
        str,
        typer.Argument(help="A folder with a checkpoint, a name on the Hugging Face Hub, or bundled:text."),
    ] = "bundled:text",
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prompts by topic, .jsonl or .txt, a prompt a line (repeatable). Default: text that ships."
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(help="A token prior of evenmoe profile. Default: learned from half of the prompts."),
    ] = None,
    strategy: Annotated[
        list[str], typer.Option(help="Strategy (repeatable); each serves the same arrivals.")
    ] = STRATEGIES,
    requests: Annotated[int, typer.Option(help="Prompts that each strategy serves.", min=1)] = 400,
    share: Annotated[
        float, typer.Option(help="Arrival rate as a share of what full batches served in the warm-up.")
    ] = 0.9,
    rate: Annotated[float | None, typer.Option(help="Arrivals per second, instead of --share.")] = None,
    burst: Annotated[float, typer.Option(help="Mean requests of a burst on one topic.")] = 32.0,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of a prompt, at most.", min=1)] = 128,
    ranks: Annotated[
        int | None,
        typer.Option(help="Put the experts on this many processes, where evenness costs time.", min=2),
    ] = None,
    devices: DevicesOption = None,
    placement: PlacementOption = None,
    scheduler: SchedulerOption = None,
    batch_size: MaxBatchOption = None,
    window: WindowOption = None,
    trigger: TriggerOption = None,
    interval_ms: IntervalOption = None,
    max_passed_over: PassedOverOption = None,
    clock: Annotated[
        str,
        typer.Option(help="wall, or cpu: this process's CPU time, which a busy machine disturbs less."),
    ] = "wall",
    threads: ThreadsOption = 1,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Serve real prompts with MODEL on this machine under each strategy, and say how well the simulator foretells it.

    Each request is a prompt and the first new token. Ctrl-C ends it and reports what was measured until then.

    Example: evenmoe simulate live bundled:text --devices 8 --share 0.95
    """
    from evenmoe.live.study import LiveSettings

    check_choice("clock", clock, CLOCKS)
    if clock == "cpu" and threads != 1:
        raise ConfigError("threads", threads, "1 with the cpu clock: it adds up the time of all threads")
    if ranks is not None and clock == "cpu":
        raise ConfigError("clock", clock, "wall with --ranks: processes wait for each other in real time")
    if ranks is not None and devices not in (None, ranks):
        raise ConfigError("devices", devices, f"the {ranks} ranks, or left out")
    num_devices, placed = devices_and_placement(ranks or devices, placement)
    settings = LiveSettings(
        strategies=tuple(strategy),
        num_requests=requests,
        share=share,
        rate_per_s=rate,
        burst_requests=burst,
        scheduler=scheduler_config(
            scheduler,
            batch_size=batch_size,
            window=window,
            trigger=trigger,
            interval_ms=interval_ms,
            max_passed_over=max_passed_over,
        ),
        seed=seed,
    )
    given = Given(prompts, prior, prompt_tokens, num_devices, placed, clock, ranks)
    try:
        results = _run(model, dtype, quantization, threads, settings, given)
    except KeyboardInterrupt:
        stderr.print("Interrupted before anything was measured.")
        raise typer.Exit(130) from None
    print_results(results, settings, f"{model} on this machine", given, stdout)
    if json:
        from evenmoe.evaluation.results import versions

        config = {"model": model, "dtype": dtype, "quantization": quantization, "threads": threads}
        config |= given.describe() | dataclasses.asdict(settings)
        write_json(json, {"config": config, "versions": versions()} | results.as_dict())
    if results.interrupted:
        raise typer.Exit(130)


def _run(
    name: str, dtype: str, quantization: str | None, threads: int, settings: LiveSettings, given: Given
) -> LiveResults:
    import torch

    from evenmoe.live.clock import CpuClock, WallClock
    from evenmoe.live.engine import ModelEngine, pad_token_of
    from evenmoe.live.ranks import RanksJob, run_live_ranks
    from evenmoe.live.study import run_live
    from evenmoe.models.attach import attach
    from evenmoe.models.settings import resolve_placement
    from evenmoe.routing import Baseline

    torch.set_num_threads(threads)
    model, tokenizer = load_model_and_tokenizer(name, dtype, quantization)
    asked = prompts_of(given, tokenizer)
    with progress_bar() as progress:
        task = progress.add_task("starting", total=None)

        def announce(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        predictor, served = predictor_of(given.prior, model, name, asked, announce)
        if given.ranks is not None:
            del model  # the processes load their own
            job = RanksJob(
                path=path_of(name),
                dtype=dtype,
                quantization=cast(Any, quantization),
                settings=settings,
                prompts=served,
                predictor=predictor,
                placement=given.placement,
            )
            return run_live_ranks(job, given.ranks, threads=threads, on_progress=announce)
        with attach(model, Baseline(), num_devices=given.devices, placement=given.placement) as attached:
            experts_L = [layer.num_experts for layer in attached.layers]
            return run_live(
                settings,
                ModelEngine(model, attached, pad_token_of(model, tokenizer)),
                served,
                predictor,
                resolve_placement(given.placement, experts_L, given.devices),
                new_clock=WallClock if given.clock == "wall" else CpuClock,
                on_progress=announce,
            )
