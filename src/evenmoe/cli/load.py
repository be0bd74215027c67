"""`evenmoe load`: replay a trace against an OpenAI-compatible server and say what its users would see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenmoe.cli.console import progress_bar, stderr, stdout, write_json
from evenmoe.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from evenmoe.serving.load import ClientOptions, LoadResult, Planned, Record


def load(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    arrivals: Annotated[
        Path, typer.Option(help="A trace: Azure's .csv, Mooncake's .jsonl, or a generic .csv (or .gz).")
    ],
    prompts: Annotated[
        list[Path], typer.Option(help="Texts to send: .jsonl or .txt, by topic (repeatable; .gz too).")
    ],
    speedup: Annotated[float, typer.Option(help="How many times as fast as the trace.")] = 1.0,
    requests: Annotated[int, typer.Option(help="Requests of the trace, at most.", min=1)] = 1000,
    start: Annotated[float, typer.Option(help="Seconds of the trace to leave out before them.", min=0)] = 0.0,
    keep_ties: Annotated[
        bool, typer.Option("--keep-ties", help="Do not spread arrivals at one time up to the next.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(help="Output tokens of a request, at most. Default: the trace's.", min=1)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model's name. Default: the first that the server lists.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Use /v1/chat/completions.")] = False,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for exactly as many tokens as the trace says.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request is given up.")] = 300.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="Sent as a bearer token.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Also write one JSON line per request to this file.")
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Send each request of a trace when it is due, however many are unanswered, and measure latencies and errors.

    Latencies count from when a request was due. Exit status 1 if any request did not finish.

    Example: evenmoe load http://127.0.0.1:8000 --arrivals azure.csv --speedup 4 --prompts questions.jsonl
    """
    from evenmoe.cli.simulate_trace_inputs import cut_trace
    from evenmoe.serving.load import plan_load
    from evenmoe.simulation.workloads.prompts import read_prompts

    trace = cut_trace(arrivals, requests, start, keep_ties)
    texts = [prompt for path in prompts for prompt in read_prompts(path)]
    plan = plan_load(trace, texts, speedup=speedup, most_output_tokens=max_tokens, seed=seed)
    options = _client_options(url, model, chat, ignore_eos, timeout, api_key)
    done, result, interrupted = _run(plan, options)
    if records is not None:
        _write_records(records, done)
    _print(result)
    if json is not None:
        settings = {
            "url": url,
            "model": options.model,
            "arrivals": str(arrivals),
            "prompts": [str(path) for path in prompts],
            "speedup": speedup,
            "requests": len(plan),
            "start_s": start,
            "keep_ties": keep_ties,
            "max_tokens": max_tokens,
            "chat": chat,
            "ignore_eos": ignore_eos,
            "timeout_s": timeout,
            "seed": seed,
        }
        write_json(json, {"config": settings, "interrupted": interrupted, "result": result.as_dict()})
    if interrupted:
        raise typer.Exit(130)
    if result.outcomes.get("finished", 0) < len(plan):
        raise typer.Exit(1)


def _client_options(
    url: str, model: str | None, chat: bool, ignore_eos: bool, timeout_s: float, api_key: str | None
) -> ClientOptions:
    import asyncio

    from evenmoe.serving.load import ClientOptions
    from evenmoe.serving.load.client import served_model

    def with_model(name: str) -> ClientOptions:
        return ClientOptions(
            url=url, model=name, chat=chat, ignore_eos=ignore_eos, timeout_s=timeout_s, api_key=api_key
        )

    with_model(model or "")  # a wrong option is told before the server is asked
    return with_model(model or asyncio.run(served_model(url, api_key)))


def _run(plan: list[Planned], options: ClientOptions) -> tuple[list[Record], LoadResult, bool]:
    """The records in order, the result, and whether it was interrupted, which keeps what had ended by then."""
    import asyncio
    import time

    from evenmoe.serving.load import run_load, summarise

    done: list[Record] = []
    start = time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task("sending", total=len(plan))

        def told(record: Record) -> None:
            done.append(record)
            progress.advance(task)
            if record.outcome != "finished":
                progress.update(task, description=f"last: {record.outcome}, {record.error[:60]}")

        try:
            records, seconds = asyncio.run(run_load(plan, options, told))
        except KeyboardInterrupt:
            progress.stop()
            if not done:
                raise typer.Exit(130) from None
            stderr.print(f"Interrupted: the figures are of the {len(done)} requests that had ended.")
            done.sort(key=lambda record: record.index)
            return done, summarise(done, time.perf_counter() - start), True
    return records, summarise(records, seconds), False


def _write_records(path: Path, records: list[Record]) -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record.as_dict()) + "\n" for record in records), encoding="utf-8")


def _print(result: LoadResult) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "mean", "P50", "P90", "P99", "worst"):
        table.add_column(name, justify="left" if not name else "right")
    rows: dict[str, tuple[Any, float, str]] = {
        "latency, s": (result.latency, 1, ".3f"),
        "time to first token, s": (result.ttft, 1, ".3f"),
        "time per output token, ms": (result.tpot, 1000, ".1f"),
        "sent late by, ms": (result.late, 1000, ".1f"),
    }
    for name, (found, unit, shape) in rows.items():
        figures = ("mean", "p50", "p90", "p99", "worst")
        cells = (format(getattr(found, figure) * unit, shape) if found else "-" for figure in figures)
        table.add_row(name, *cells)
    stdout.print(table)
    offered = (
        "all at once" if result.offered_per_s is None else f"{result.offered_per_s:.2f} offered per second"
    )
    finished = result.outcomes.get("finished", 0)
    stdout.print(
        f"{finished} of {result.requests} requests finished in {result.seconds:.1f} s: {offered}, "
        f"{result.finished_per_s:.2f} finished, {result.tokens_per_s:.0f} tokens per second, "
        f"at most {result.most_in_flight} at once.",
        highlight=False,
    )
    for message, count in list(result.errors.items())[:5]:
        stdout.print(f"{count} times: {message}", highlight=False, markup=False)
