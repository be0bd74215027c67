"""`evenmoe calibrate-modality`: which experts serve images, which text, and which both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenmoe.cli.console import hide_loading_bars, progress_bar, stderr, stdout
from evenmoe.cli.options import DtypeOption, JsonOption, QuantizationOption, SeedOption
from evenmoe.cli.running import path_of

if TYPE_CHECKING:
    from evenmoe.routing import ExpertModality


def calibrate_modality(
    model: Annotated[
        str,
        typer.Argument(help="A folder with a checkpoint, a name on the Hugging Face Hub, or bundled:vlm."),
    ],
    out: Annotated[Path, typer.Option(help="The file of expert labels to write.")] = Path(
        "out/expert_modality.json"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='Questions about images, a line each: {"image": "cat.png", "question": "what is this?"}; images are '
            "found beside the file. Default: drawn scenes."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Prompts to run.", min=1)] = 256,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Prompts per batch.", min=1)] = 16,
    threshold: Annotated[
        float,
        typer.Option(
            help="From which ratio of its shares of image and text pairs an expert is one modality's."
        ),
    ] = 2.0,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Label MODEL's experts visual, text or shared by what images and text ask of them, for the policy macs.

    Example: evenmoe calibrate-modality bundled:vlm --out labels.json

    Then: evenmoe eval bundled:vlm --suite multimodal --policy macs:labels=labels.json --gamma 1
    """
    from evenmoe.evaluation.vision.calibration import calibration_batches, read_prompts, scene_prompts
    from evenmoe.models.loading import load
    from evenmoe.models.modality import calibrate_modality
    from evenmoe.models.processing import load_processor
    from evenmoe.routing import write_expert_modality

    chosen = scene_prompts(limit, seed) if prompts is None else read_prompts(prompts, limit)
    path = path_of(model)
    hide_loading_bars()
    with stderr.status(f"Loading {model} ..."):
        processor, loaded = load_processor(path), load(path, dtype=dtype, quantization=quantization)  # type: ignore[arg-type]
    device = next(loaded.parameters()).device
    with progress_bar() as progress:
        task = progress.add_task("running", total=-(-len(chosen) // batch_size))
        labels = calibrate_modality(
            loaded,
            (batch.to(device) for batch in calibration_batches(processor, chosen, batch_size)),
            threshold=threshold,
            progress=lambda done: progress.update(task, completed=done),
        )
    for target in filter(None, (out, json)):
        write_expert_modality(labels, target)
    stdout.print(_table(labels))
    stdout.print(f"Labels: {out}   By {labels.method}.", soft_wrap=True, highlight=False)


def _table(labels: ExpertModality) -> Table:
    table = Table(title="Experts by modality", title_justify="left")
    for column in ("layer", "visual", "text", "shared"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for layer, name in enumerate(labels.layers):
        counts = labels.counts(layer)
        table.add_row(name, *(str(counts[column]) for column in ("visual", "text", "shared")))
    return table
