"""Options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    str, typer.Argument(help="A folder with a checkpoint, a name on the Hugging Face Hub, or bundled:text.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the result as data to this file.")
]
SeedOption = Annotated[
    int, typer.Option(help="Seed of everything random: the same seed gives the same result.", min=0)
]
OutOption = Annotated[Path, typer.Option(help="Folder for results, loads, plots and the report.")]
TextOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", help="A UTF-8 text file, one per domain (repeatable). Default: the text that ships."
    ),
]
DevicesOption = Annotated[
    int | None,
    typer.Option("--devices", help="Virtual expert-parallel devices. Default: the placement's, or 8.", min=1),
]
PlacementOption = Annotated[
    Path | None,
    typer.Option("--placement", help="A placement file (evenmoe place). Default: experts in order."),
]
WindowsOption = Annotated[
    int | None,
    typer.Option(
        "--windows", help="Windows of text to run. Default: what fits in the text, at most 96.", min=1
    ),
]
WindowTokensOption = Annotated[int, typer.Option("--window-tokens", help="Tokens per window.", min=2)]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", help="Windows per batch; must divide --windows. Default: at most 32.", min=1
    ),
]
MixOption = Annotated[
    str, typer.Option("--mix", help="Rows of a batch: mixed over devices, or sorted by-domain.")
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
QuantizationOption = Annotated[
    str | None, typer.Option("--quantization", help="nf4: 4-bit weights through bitsandbytes.")
]
ScopeOption = Annotated[
    str, typer.Option("--scope", help="Capacity per source device (local) or per batch (global).")
]
LevelOption = Annotated[str, typer.Option("--level", help="Limit each expert or each device.")]
IsolationOption = Annotated[str, typer.Option("--isolation", help="batch, request or strict.")]
