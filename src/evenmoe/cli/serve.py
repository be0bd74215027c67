"""`evenmoe serve`: an OpenAI-compatible server with routing, scheduling and expert metrics set up."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenmoe.cli.console import stdout
from evenmoe.cli.options import ModelArgument

if TYPE_CHECKING:
    from evenmoe.serving.launch.command import EngineCommand
    from evenmoe.serving.launch.options import Engine, ServeOptions

ROUTING, SCHEDULING, SERVER, ENGINE = "Routing", "Scheduling", "Server", "Engine"


def serve(
    model: ModelArgument,
    engine_arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGUMENTS", help="Arguments of vLLM's own, after --.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="vllm or transformers. Default: vllm if installed.", rich_help_panel=ENGINE),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file: routing, scheduling, metrics. Flags go first.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Which tokens an expert keeps: name:option=value,...", rich_help_panel=ROUTING),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Capacity factor. Default: inf, no limit.", rich_help_panel=ROUTING)
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices by which loads are counted.", min=1, rich_help_panel=ROUTING)
    ] = None,
    placement: Annotated[
        Path | None, typer.Option(help="A placement file (evenmoe place).", rich_help_panel=ROUTING)
    ] = None,
    phases: Annotated[
        str | None,
        typer.Option(help="Tokens that are limited: prefill, decode, both.", rich_help_panel=ROUTING),
    ] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of a step from which a policy acts.", min=1, rich_help_panel=ROUTING),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Order the waiting requests by this strategy, such as auto. Default: the engine's order.",
            rich_help_panel=SCHEDULING,
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            help="A token prior (evenmoe profile --predictor) that foretells loads.",
            rich_help_panel=SCHEDULING,
        ),
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            help="Who foretells loads: token-prior, client or none. Default: token-prior with --prior.",
            rich_help_panel=SCHEDULING,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0: all of them.", rich_help_panel=SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535, rich_help_panel=SERVER)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EVENMOE_API_KEY", help="What clients must send as a bearer token.", rich_help_panel=SERVER
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float,
        typer.Option(help="Seconds that accepted requests have to finish at a stop.", rich_help_panel=SERVER),
    ] = 60.0,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.", rich_help_panel=ENGINE)
    ] = "auto",
    max_model_len: Annotated[
        int | None,
        typer.Option(help="Tokens of prompt and answer together, at most.", min=1, rich_help_panel=ENGINE),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(help="Requests that run at once, at most.", min=1, rich_help_panel=ENGINE),
    ] = None,
    tensor_parallel_size: Annotated[
        int, typer.Option(help="Processes that share the model (vLLM).", min=1, rich_help_panel=ENGINE)
    ] = 1,
    expert_parallel: Annotated[
        bool,
        typer.Option(
            "--expert-parallel", help="Share out whole experts over these processes.", rich_help_panel=ENGINE
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of what is random in policies and strategies.", min=0)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the engine's command, and do not start it.")
    ] = False,
) -> None:
    """Serve a model: one command for an OpenAI-compatible server with routing, scheduling and metrics set up.

    Ctrl-C or SIGTERM lets accepted requests finish; a second Ctrl-C ends at once. Exit status 0 after that, 1 if the
    engine died, 130 if it was interrupted.

    Example: evenmoe serve bundled:text --policy token_drop --gamma 1.5 -- --enforce-eager
    """
    from evenmoe.serving.launch.options import ServeOptions, ServingFlags, resolve_serving

    flags = ServingFlags(
        policy=policy,
        gamma=gamma,
        devices=devices,
        placement=placement,
        phases=phases,
        min_tokens=min_tokens,
        scheduler=scheduler,
        predictor=predictor,
        prior=prior,
        seed=seed,
    )
    serving = resolve_serving(config, flags)
    options = ServeOptions(
        model=model,
        engine=_engine(engine),
        serving=serving,
        host=host,
        port=port,
        api_key=api_key,
        dtype=dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        tensor_parallel_size=tensor_parallel_size,
        expert_parallel=expert_parallel,
        shutdown_timeout_s=shutdown_timeout,
        engine_arguments=tuple(engine_arguments or ()),
    )
    status = _serve(options, dry_run)
    if status:
        raise typer.Exit(status)


def _engine(asked: str | None) -> Engine:
    """The engine that was asked for, or the one that is there."""
    from evenmoe.serving.launch.engines import choose_engine

    engine = choose_engine(asked)
    if asked is None:
        _say(f"Engine: {engine}" + ("" if engine == "vllm" else " (vLLM is not installed)"))
    return engine


def _serve(options: ServeOptions, dry_run: bool) -> int:
    from tempfile import TemporaryDirectory

    from evenmoe.serving.launch.addresses import claim_port, url_of
    from evenmoe.serving.launch.checkpoint import prepare
    from evenmoe.serving.launch.command import engine_command
    from evenmoe.serving.launch.options import check_files

    check_files(options.serving)
    served = prepare(options.model, options.engine)
    if served.note:
        _say(served.note)
    port = claim_port(options.host, options.port)
    url = url_of(options.host, port)
    if not options.is_local and options.api_key is None:
        _say(
            f"Warning: {options.host} can be reached from other machines, and no --api-key is asked for: "
            "anyone there can use this server and read its metrics."
        )
    with TemporaryDirectory(prefix="evenmoe-serve-") as scratch:
        command = engine_command(options, served, port, Path(scratch))
        if dry_run:
            stdout.print(str(command), soft_wrap=True, markup=False, highlight=False)
            return 0
        return _run(options, command, url, served.name)


def _run(options: ServeOptions, command: EngineCommand, url: str, name: str) -> int:
    import os

    from evenmoe.serving.launch.process import EngineProcess
    from evenmoe.serving.launch.supervising import Supervisor, listening

    _say(f"Loading {name}; it will listen on {url}")
    with listening() as asked:
        engine = EngineProcess(command.arguments, command.environment(os.environ), _pass_through)
        supervisor = Supervisor(
            engine,
            asked,
            url=url,
            shutdown_timeout_s=options.shutdown_timeout_s,
            tell=_say,
            on_ready=lambda seconds: _announce(url, name, seconds, options.api_key is not None),
        )
        return supervisor.run()


def _announce(url: str, name: str, seconds: float, has_key: bool) -> None:
    key = " -H 'Authorization: Bearer KEY'" if has_key else ""
    _say(
        f"Ready after {seconds:.0f} s: {url} (model {name})\n"
        f"  curl {url}/v1/completions{key} -H 'Content-Type: application/json' \\\n"
        f'    -d \'{{"model": "{name}", "prompt": "The president of the", "max_tokens": 16}}\'\n'
        f"  evenmoe top {url}"
    )


def _say(sentence: str) -> None:
    """To standard error, beside the engine's log."""
    _pass_through(typer.style("evenmoe:", bold=True) + f" {sentence}")


def _pass_through(line: str) -> None:
    with suppress(OSError):  # nobody reads it any more; the server goes on
        typer.echo(line, err=True)
