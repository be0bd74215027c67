"""`evenmoe simulate trace`: does expert-aware scheduling pay for real arrivals and real expert loads, and how much?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenmoe.cli.console import progress_bar, stderr, stdout, write_json
from evenmoe.cli.options import JsonOption, PlacementOption
from evenmoe.cli.scheduler_options import (
    IntervalOption,
    MaxBatchOption,
    PassedOverOption,
    SchedulerOption,
    TriggerOption,
    WindowOption,
    scheduler_config,
)
from evenmoe.cli.simulate_options import whole_numbers, words
from evenmoe.cli.simulate_trace_inputs import (
    batching_of,
    cut_trace,
    execution_of,
    loads_of,
    noise_of,
    rate_of,
)
from evenmoe.cli.simulate_trace_tables import print_results

if TYPE_CHECKING:
    from evenmoe.simulation.studies.trace_results import TraceResults
    from evenmoe.simulation.studies.trace_study import TraceStudy

STRATEGIES = ["fcfs", "greedy_variance", "peak_excess", "auto"]
SEEDS = ["42", "123", "456", "789"]


def trace(
    ctx: typer.Context,
    arrivals: Annotated[
        Path, typer.Option(help="A trace: Azure's .csv, Mooncake's .jsonl, or a generic .csv (or .gz).")
    ],
    loads: Annotated[
        Path | None, typer.Option(help="Expert loads by domain, as evenmoe profile writes them.")
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Instead of --loads: prompts by topic, .jsonl or .txt; needs --prior."),
    ] = None,
    prior: Annotated[Path | None, typer.Option(help="The token prior for --prompts.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer reads --prompts. Default: the prior's.")
    ] = None,
    strategy: Annotated[
        list[str], typer.Option(help="Strategies (repeatable); fcfs is always run.")
    ] = STRATEGIES,
    shape: Annotated[
        str | None,
        typer.Option(
            help="A shape's name, a config.json, or bundled:text. Default: the known one that fits."
        ),
    ] = None,
    machine: Annotated[
        str, typer.Option(help="h100-node, h20-node, a file of evenmoe calibrate, or formula.")
    ] = "h100-node",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    devices: Annotated[
        int | None, typer.Option(help="Devices. Default: the placement's, or the shape's.", min=1)
    ] = None,
    placement: PlacementOption = None,
    policy: Annotated[
        str | None,
        typer.Option(help="A routing policy inside: token_drop, expanded_drop or fill; needs --gamma."),
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Capacity factor of --policy.")] = None,
    assign: Annotated[
        str, typer.Option(help="Which device's share a request joins: arrival, random or balanced.")
    ] = "arrival",
    batching: Annotated[str, typer.Option(help="static, or continuous.")] = "static",
    max_running: Annotated[
        int | None, typer.Option(help="Continuous: requests at once. Default: 64.", min=1)
    ] = None,
    token_budget: Annotated[
        int | None, typer.Option(help="Continuous: tokens of an iteration. Default: 2048.", min=1)
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Continuous: prompt tokens of a request in an iteration. Default: any.", min=1),
    ] = None,
    scheduler: SchedulerOption = None,
    batch_size: MaxBatchOption = None,
    window: WindowOption = None,
    trigger: TriggerOption = None,
    interval_ms: IntervalOption = None,
    max_passed_over: PassedOverOption = None,
    share: Annotated[
        float | None, typer.Option(help="Arrival rate as a share of what fcfs can serve. Default: 0.9.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Instead of --share: requests per second.")] = None,
    speed: Annotated[
        float | None, typer.Option(help="Instead of --share: times the trace's own rate.")
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests of the trace, at most.", min=1)] = 2000,
    start: Annotated[float, typer.Option(help="Seconds of the trace to leave out before them.", min=0)] = 0.0,
    keep_ties: Annotated[
        bool, typer.Option("--keep-ties", help="Do not spread arrivals at one time up to the next.")
    ] = False,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Every prompt this long. Default: the trace's.", min=1)
    ] = None,
    output_tokens: Annotated[
        int | None,
        typer.Option(
            help="Every answer this long; 1: a machine for prefill alone. Default: the trace's.", min=1
        ),
    ] = None,
    burst: Annotated[
        float, typer.Option(help="Mean requests in a row on one topic, where the trace names none.", min=1)
    ] = 32.0,
    by_session: Annotated[
        bool, typer.Option("--by-session", help="One topic for each of the trace's sessions (Mooncake).")
    ] = False,
    noise: Annotated[
        float | None, typer.Option(help="How requests differ from their topic (docs/workloads.md); 0: not.")
    ] = None,
    cosine: Annotated[
        float | None,
        typer.Option(
            help="Accuracy with which the scheduler knows each request. Default: its topic; with --prompts, 0.95."
        ),
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of the requests that is not counted.")] = 0.1,
    seeds: Annotated[list[str], typer.Option(help="Seeds of topics and loads (repeatable).")] = SEEDS,
    explain: Annotated[
        bool, typer.Option(help="Run all of it with alike loads too: what of a gain is due to the experts?")
    ] = True,
    jobs: Annotated[int | None, typer.Option(help="Processes. Default: one for each core.", min=1)] = None,
    json: JsonOption = None,
) -> None:
    """Simulate batch scheduling on a trace and real expert loads, and say in one sentence whether to turn it on.

    Example: evenmoe simulate trace --arrivals azure.csv --loads out/profile/loads.json --devices 8
    """
    from evenmoe.simulation.studies.trace_study import TraceStudy
    from evenmoe.simulation.workloads.lengths import Fixed, RequestLengths

    cut = cut_trace(arrivals, requests, start, keep_ties)
    spread = noise_of(noise, cosine, is_of_prompts=bool(prompts))
    source = loads_of(loads, prompts, prior, tokenizer, spread)
    sizes, execution = execution_of(source, shape, machine, dtype, devices, placement, policy, gamma, assign)
    share, rate_per_s = rate_of(cut, share, rate, speed)
    study = TraceStudy(
        trace=cut,
        loads=source,
        execution=execution,
        strategies=words(strategy),
        seeds=whole_numbers("seeds", seeds),
        batching=batching_of(batching, max_running, token_budget, chunk_tokens),
        scheduler=scheduler_config(
            scheduler,
            batch_size=batch_size,
            window=window,
            trigger=trigger,
            interval_ms=interval_ms,
            max_passed_over=max_passed_over,
        ),
        lengths=RequestLengths(
            prompt=None if prompt_tokens is None else Fixed(prompt_tokens),
            output=None if output_tokens is None else Fixed(output_tokens),
        ),
        topic_run=burst,
        by_session=by_session,
        warmup=warmup,
        share=share,
        rate_per_s=rate_per_s,
    )
    results = _run(study, explain, jobs)
    rule = "" if policy is None else f", {policy} at gamma {gamma:g}"
    where = f"{execution.num_devices} devices of {machine}, {sizes.name} in {dtype}{rule}, {batching} batches"
    print_results(results, study, where, stdout)
    if json:
        write_json(json, _body(ctx.params, study, sizes.describe(), results))


def _run(study: TraceStudy, explain: bool, jobs: int | None) -> TraceResults:
    from evenmoe.simulation.studies.trace_study import run_trace

    with progress_bar() as progress:
        task = progress.add_task("simulating", total=None)
        try:
            return run_trace(
                study,
                explain=explain,
                jobs=jobs,
                announce=lambda done, total: progress.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            progress.stop()
            stderr.print("Interrupted. Nothing is left running, and nothing was written.")
            raise typer.Exit(130) from None


def _body(
    given: dict[str, Any], study: TraceStudy, shape: dict[str, Any], results: TraceResults
) -> dict[str, Any]:
    """The result as data, with every option as given and what it came to."""
    import dataclasses

    from evenmoe.evaluation.results import versions

    resolved = {
        "shape": shape,
        "topics": list(study.loads.topics),
        "load_noise": dataclasses.asdict(study.loads.noise),
        "batching": dataclasses.asdict(study.batching),
        "scheduler": dataclasses.asdict(study.scheduler),
        "strategies": list(study.all_strategies),
        "seeds": list(study.seeds),
        "share": study.share,
        "rate_per_s": study.rate_per_s,
    }
    options = {name: _plain(value) for name, value in given.items() if name != "json"}
    return {"options": options, "config": resolved, "versions": versions()} | results.as_dict()


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
