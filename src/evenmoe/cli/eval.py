"""`evenmoe eval`: scores on tasks through lm-eval, and on images; each policy in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli import eval_compare, eval_list
from evenmoe.cli.default_command import RunByDefault
from evenmoe.cli.eval_running import choose_tasks, eval_configs, run_all
from evenmoe.cli.options import (
    DevicesOption,
    DtypeOption,
    IsolationOption,
    JsonOption,
    LevelOption,
    PlacementOption,
    QuantizationOption,
    ScopeOption,
    SeedOption,
)
from evenmoe.cli.running import devices_and_placement
from evenmoe.errors import ConfigError

app = typer.Typer(
    cls=RunByDefault,
    help="Scores on tasks under a policy. `evenmoe eval MODEL ...` is `evenmoe eval run MODEL ...`.",
    no_args_is_help=True,
)
app.command("compare")(eval_compare.compare)
app.command("ls")(eval_list.list_tasks)


@app.command("run")
def run(
    model: Annotated[
        str | None, typer.Argument(help="A folder, a name on the Hub, bundled:text or bundled:vlm.")
    ] = None,
    model_option: Annotated[str | None, typer.Option("--model", help="The same, as an option.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="bundled, language or multimodal (evenmoe eval ls).")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of lm-eval or of the suite, with commas between.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", help="A folder of your own lm-eval task files.")
    ] = None,
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy", help="name or name:option=value, as in token_drop:keep=random (repeatable)."
        ),
    ] = ["baseline"],  # noqa: B006 (typer copies it)
    gamma: Annotated[
        list[float] | None,
        typer.Option("--gamma", help="Capacity factor of policies that have one (repeatable)."),
    ] = None,
    devices: DevicesOption = None,
    placement: PlacementOption = None,
    scope: ScopeOption = "local",
    level: LevelOption = "expert",
    isolation: IsolationOption = "batch",
    phases: Annotated[str, typer.Option(help="Act on prefill, on decode, or on both.")] = "both",
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Rows per batch: a fixed number, it changes what is dropped.")
    ] = "16",
    num_fewshot: Annotated[
        int | None,
        typer.Option("--num-fewshot", help="Shots of every task. Default: the suite's, the task's.", min=0),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first items of each task only.", min=1)] = None,
    chat: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask in the model's chat format.")
    ] = False,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = None,
    seed: SeedOption = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of the result; of several policies, one folder each below it.")
    ] = Path("out/eval"),
    check_repeat: Annotated[
        bool,
        typer.Option("--check-repeat", help="Run the first task of each policy again and compare bytes."),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Score MODEL on a suite or on tasks under each policy, and print one table.

    An interrupted evaluation goes on where it stopped when the same command is given again.

    Example: evenmoe eval bundled:text --suite bundled --policy baseline --policy token_drop --gamma 1.5
    """
    name = model or model_option
    if name is None or None not in (model, model_option):
        raise ConfigError("model", name, "given once, as MODEL or as --model")
    num_devices, placed = devices_and_placement(devices, placement)
    configs = eval_configs(
        policy,
        gamma or [],
        model=name,
        suite=suite,
        tasks=choose_tasks(name, suite, tasks),
        scope=scope,
        level=level,
        isolation=isolation,
        num_devices=num_devices,
        placement=None if placed is None else placed.rows,
        phases=phases,
        batch_size=batch_size,
        num_fewshot=num_fewshot,
        limit=limit,
        include_path=None if include_path is None else str(include_path),
        apply_chat_template=chat,
        dtype=dtype,
        quantization=quantization,
        seed=seed,
    )
    if not run_all(configs, out, json, check_repeat=check_repeat):
        raise typer.Exit(1)
