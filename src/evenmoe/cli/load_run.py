"""`evenmoe load run`: send traffic to an OpenAI-compatible server and say what its users would see."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenmoe.cli.console import stderr, write_json
from evenmoe.cli.load_inputs import Traffic, extra_fields
from evenmoe.cli.options import JsonOption, SeedOption
from evenmoe.version import __version__

if TYPE_CHECKING:
    from evenmoe.serving.load import ClientOptions

WHEN, WHAT, SERVER, RESULTS = "When requests come", "What they ask", "Server", "Results"


def run(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    arrivals: Annotated[
        Path | None,
        typer.Option(
            help="A trace: Azure's .csv, Mooncake's .jsonl, or a generic .csv (or .gz).", rich_help_panel=WHEN
        ),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(help="How many times as fast as the trace. Default: 1.", rich_help_panel=WHEN),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(help="Seconds of the trace to leave out. Default: 0.", min=0, rich_help_panel=WHEN),
    ] = None,
    keep_ties: Annotated[
        bool,
        typer.Option(
            "--keep-ties", help="Do not spread arrivals at one time up to the next.", rich_help_panel=WHEN
        ),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Instead of a trace: requests per second, at random; inf: all at once.", rich_help_panel=WHEN
        ),
    ] = None,
    burst: Annotated[
        float | None,
        typer.Option(
            help="Mean requests, one after another, that share a topic; with --rate they come faster too.",
            rich_help_panel=WHEN,
        ),
    ] = None,
    intensity: Annotated[
        float | None,
        typer.Option(help="Rate inside a burst over the mean rate. Default: 2.", min=1, rich_help_panel=WHEN),
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Texts to send: .jsonl or .txt, by topic (repeatable). Default: the text that ships.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    prompt_words: Annotated[
        int | None,
        typer.Option(
            help="Words of a prompt of the text that ships. Default: 64.", min=1, rich_help_panel=WHAT
        ),
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests, at most.", min=1, rich_help_panel=WHEN)] = 200,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Output tokens of a request, at most. Default: the trace's, or 32.",
            min=1,
            rich_help_panel=WHAT,
        ),
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for exactly as many tokens.", rich_help_panel=WHAT)
    ] = False,
    warm_up: Annotated[
        int,
        typer.Option(
            help="Requests to send and wait for before the clock starts.", min=0, rich_help_panel=WHEN
        ),
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model's name. Default: the first that the server lists.", rich_help_panel=SERVER
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Use /v1/chat/completions.", rich_help_panel=WHAT)
    ] = False,
    extra_body: Annotated[
        str | None,
        typer.Option(help="More fields of each request, as a JSON object.", rich_help_panel=WHAT),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a request is given up.", rich_help_panel=SERVER)
    ] = 300.0,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="OPENAI_API_KEY", help="Sent as a bearer token.", rich_help_panel=SERVER),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Also write one JSON line per request, as it ends, to this file.", rich_help_panel=RESULTS
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="What evenmoe load compare calls this run. Default: the file's name.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Send each request when it is due, however many are unanswered, and measure latencies and errors.

    Latencies count from when a request was due. Exit status 1 if any request did not finish.

    Example: evenmoe load http://127.0.0.1:8000 --rate 5 --burst 16

    Example: evenmoe load http://127.0.0.1:8000 --arrivals azure.csv --speedup 4 --prompts questions.jsonl
    """
    from evenmoe.cli.load_running import measure
    from evenmoe.cli.load_tables import print_result
    from evenmoe.serving.load import num_repeated

    traffic = Traffic(
        arrivals=arrivals, speedup=speedup, start=start, keep_ties=keep_ties, rate=rate, burst=burst,
        intensity=intensity, prompts=prompts, prompt_words=prompt_words, requests=requests,
        max_tokens=max_tokens, warm_up=warm_up, seed=seed,
    )  # fmt: skip
    first, plan = traffic.plan()
    options = _client_options(
        url, model, chat=chat, ignore_eos=ignore_eos, timeout_s=timeout, api_key=api_key,
        extra=extra_fields(extra_body),
    )  # fmt: skip
    measured = measure(first, plan, options, records)
    print_result(measured.result, measured.server)
    repeated = num_repeated(plan)
    if repeated:
        stderr.print(
            f"{repeated} of the prompts came again; a server with prefix caching answers those faster."
        )
    if json is not None:
        config = {
            "label": label,
            **traffic.describe(),
            "url": url,
            "model": options.model,
            "chat": chat,
            "ignore_eos": ignore_eos,
            "extra_body": options.extra,
            "timeout_s": timeout,
        }
        body = {"config": config, "versions": {"evenmoe": __version__}, **measured.as_dict()}
        write_json(json, {**body, "prompts_repeated": repeated})
    if measured.interrupted:
        raise typer.Exit(130)
    if measured.result.outcomes.get("finished", 0) < len(plan):
        raise typer.Exit(1)


def _client_options(url: str, model: str | None, **settings: Any) -> ClientOptions:
    import asyncio

    from evenmoe.serving.load import ClientOptions, served_model

    options = ClientOptions(
        url=url, model=model or "", **settings
    )  # a wrong option is told before the server is asked
    if model is None:
        options = dataclasses.replace(options, model=asyncio.run(served_model(url, options.api_key)))
    return options
