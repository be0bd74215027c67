"""`evenmoe profile`: how uneven a model's experts are on the user's own text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli.console import progress_bar, stdout
from evenmoe.cli.options import (
    BatchSizeOption,
    DevicesOption,
    DtypeOption,
    JsonOption,
    MixOption,
    ModelArgument,
    OutOption,
    PlacementOption,
    QuantizationOption,
    SeedOption,
    TextOption,
    WindowsOption,
    WindowTokensOption,
)
from evenmoe.cli.running import devices_and_placement, load_model_and_tokenizer, texts_for

PredictorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Also measure this predictor (repeatable): token-prior, gates, alone, history, mean, full; or all. "
        "--json then holds the scores."
    ),
]
LearnTextOption = Annotated[
    list[Path] | None,
    typer.Option(help="Learn from these files (repeatable), and measure on the whole of --text."),
]
PriorOption = Annotated[
    Path | None, typer.Option(help="Measure this token prior, and learn nothing: is it good on your text?")
]


def profile(
    model: ModelArgument,
    text: TextOption = None,
    out: OutOption = Path("out/profile"),
    devices: DevicesOption = None,
    placement: PlacementOption = None,
    windows: WindowsOption = None,
    window_tokens: WindowTokensOption = 256,
    batch_size: BatchSizeOption = None,
    mix: MixOption = "mixed",
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
    predictor: PredictorOption = None,
    learn_text: LearnTextOption = None,
    prior: PriorOption = None,
) -> None:
    """Count which experts MODEL uses on your text: a table, a heat map, and a loads file for later commands.

    With --predictor, also learn to predict a request's expert load, from the first half of each text, and measure how
    well that works on the second. The token prior is saved.

    Example: evenmoe profile bundled:text --text chat.txt --text code.txt

    Example: evenmoe profile bundled:text --predictor token-prior --predictor gates
    """
    from evenmoe.cli.profile_predictors import plan_study, study
    from evenmoe.evaluation.batches import make_batches, plan_batches
    from evenmoe.evaluation.profile import profile_model
    from evenmoe.evaluation.texts import cut_windows, num_fitting
    from evenmoe.loads import write_loads
    from evenmoe.reporting.html import loads_report
    from evenmoe.reporting.tables import loads_table

    texts, plan = plan_study(texts_for(text)[0], predictor, learn_text, prior)
    num_devices, placed = devices_and_placement(devices, placement)
    loaded, tokenizer = load_model_and_tokenizer(model, dtype, quantization)
    fitting = num_fitting(texts, tokenizer, window_tokens)
    windows, batch_size = plan_batches(fitting, windows, batch_size)
    cut = cut_windows(texts, tokenizer, num_windows=windows, window_tokens=window_tokens)
    batches = make_batches(cut, batch_size, mix, seed)
    with progress_bar() as progress:
        task = progress.add_task("running", total=len(batches))
        source = f"{model}, {windows} windows of {window_tokens} tokens, batches of {batch_size} ({mix}), seed {seed}"
        loads = profile_model(
            loaded, batches, num_devices, placed, source, lambda done: progress.update(task, completed=done)
        )
    out.mkdir(parents=True, exist_ok=True)
    for path in filter(None, (out / "loads.json", None if plan else json)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_loads(loads, path)
    report = loads_report(loads, out / "report.html", f"Expert loads of {model}")
    stdout.print(loads_table(loads, stdout.width, f"{model}: busiest expert over the mean"))
    stdout.print(
        f"Straggler factor on {num_devices} devices, experts placed "
        f"{'in order' if placed is None else f'as in {placement}'}: {loads.straggler_factor:.2f}. "
        f"Busiest expert per batch: {loads.peak_to_mean_before:.2f} times the mean.",
        highlight=False,
    )
    stdout.print(f"Report: {report}   Loads: {out / 'loads.json'}", soft_wrap=True, highlight=False)
    if plan:
        study(plan, model, loaded, tokenizer, cut, window_tokens, out, json)
