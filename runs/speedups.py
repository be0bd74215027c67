"""docs/end_to_end.md: the tables and figures of layer_speedup.sh, end_to_end.sh and latency_breakdown.sh.

Run: python runs/speedups.py layer|model|breakdown FOLDER, with what the benches wrote there. The name of a file says
what it is: SHAPE[@where the loads are from].json. Prints ours beside the published speedups in runs/published.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evenmoe.costs import SHAPES
from evenmoe.reporting.plots import to_png
from evenmoe.reporting.speedups import (
    PHASES,
    Compared,
    compare,
    latency_figure,
    read_bench,
    row_name,
    scaling_share,
    speedup_figure,
)

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
COLUMNS = ("kept", "straggler", "after", "by loads", "ours", "published", "difference")
LAYER_COLUMNS = ("share that scales", "theirs")
"""How much of the layer's time must follow the busiest device's load for the loads to give the speedup."""
MODEL_COLUMNS = ("layer speedup", "implied", "MoE share", "theirs")
"""Theirs: the share that their layer's speedup and their end-to-end speedup imply."""


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    files = sorted((path for path in folder.glob("*.json") if path.name != "table.json"), key=place)
    if not files:
        sys.exit(f"no results in {folder}")
    {"layer": layer, "model": model, "breakdown": breakdown}[what](files, folder)


def place(path: Path) -> tuple[int, str]:
    """Sort as the paper lists its models, then by name."""
    shapes = list(PUBLISHED["layer_speedup"])
    shape = path.stem.partition("@")[0].partition(" on ")[0]
    return shapes.index(shape) if shape in shapes else len(shapes), path.stem


def layer(files: list[Path], folder: Path) -> None:
    drawn, real, lines = [], [], []
    for path in files:
        shape, _, source = path.stem.partition("@")
        body = read_bench(path)
        skew = body["config"]["skew"]
        group = f"{shape}, {source or 'drawn'}, peak {skew:.1f} x"
        compared = compare(body, group, PUBLISHED["layer_speedup"].get(shape))
        (real if source else drawn).extend(compared)
        sizes = f"{body['config']['tokens']} tokens, {body['config']['devices']} devices"
        lines += show(f"{group}: {sizes}", body, compared)
    for name, compared in (("skewed", drawn), ("real", real)):
        if compared:
            print(to_png(speedup_figure(compared), folder / f"{name}.png"))
    write(folder, drawn + real, lines)


def model(files: list[Path], folder: Path) -> None:
    everything, lines = [], []
    for path in files:
        body = read_bench(path)
        for part in dict.fromkeys(row["part"] for row in body["rows"]):
            name = path.stem.replace("@", ", ")
            published = (
                PUBLISHED["end_to_end"].get(path.stem.partition("@")[0]) if part == "prefill" else None
            )
            compared = compare(body, f"{name}, {part}", published, part)
            lines += show(f"{name} ({body['mode']}), {part}", body, compared, part)
            everything += compared
    for part in ("prefill", "decode"):
        chosen = [one for one in everything if one.group.endswith(part)]
        if chosen:
            print(to_png(speedup_figure(chosen), folder / f"{part}.png"))
    write(folder, everything, lines)


def breakdown(files: list[Path], folder: Path) -> None:
    panels = {}
    for path in files:
        body = read_bench(path)
        config = body["config"]
        panels[
            f"{config['devices']} devices, {body['mode']}: {config['tokens']} tokens, {config['shares']}"
        ] = body
        table = Table(
            title=f"{path.stem}: change of each phase against no limit, mean over devices",
            title_justify="left",
        )
        for name in ("policy", *PHASES, "layer"):
            table.add_column(name, justify="left" if name == "policy" else "right")
        first = body["rows"][0]
        for row in body["rows"][1:]:
            changes = [
                row["phases_mean"][phase] / (first["phases_mean"][phase] or 1.0) - 1 for phase in PHASES
            ]
            table.add_row(
                row_name(row), *(f"{change:+.0%}" for change in changes), f"{1 / row['speedup'] - 1:+.0%}"
            )
        table.add_row("published", *(PUBLISHED["breakdown"].get(phase, "") for phase in PHASES), "shrinks")
        Console(width=150).print(table)
    print(to_png(latency_figure(panels), folder / "latency.png"))


def show(title: str, body: dict[str, Any], compared: list[Compared], part: str | None = None) -> list[str]:
    """Print one bench: a model with what relates it to its layers, a layer with what relates it to its loads.

    Returns the same as the lines of a Markdown table.
    """
    columns = ["policy", *COLUMNS, *(MODEL_COLUMNS if part else LAYER_COLUMNS)]
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "policy" else "right")
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    rows = [row for row in body["rows"] if row.get("part") == part]
    for row, one in zip((row for row in rows if row["gamma"] is not None), compared, strict=True):
        cells = [row_name(row), *common_cells(row, one)]
        cells += model_cells(title.split(" on ")[0], rows[0], row, one) if part else layer_cells(one)
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    Console(width=150).print(table)
    return [f"**{title}**", "", *lines, ""]


def common_cells(row: dict[str, Any], one: Compared) -> list[str]:
    numbers = (one.straggler_before, one.straggler_after, one.by_loads, one.ours)
    published = (
        ["", ""] if one.published is None else [f"{one.published:.2f}", f"{one.ours - one.published:+.2f}"]
    )
    return [f"{row['pairs_kept']:.0%}", *(f"{number:.2f}" for number in numbers), *published]


def layer_cells(one: Compared) -> list[str]:
    theirs = "" if one.published is None else share(one.published, one.by_loads)
    return [share(one.ours, one.by_loads), theirs]


def model_cells(shape: str, first: dict[str, Any], row: dict[str, Any], one: Compared) -> list[str]:
    cells = [f"{row['layer_speedup']:.2f}", f"{row['implied_speedup']:.2f}", f"{first['moe_share']:.0%}"]
    if one.published is None or len(row["phases_by_device"]) != SHAPES[shape].num_devices:
        return [*cells, ""]  # the layer's speedup was published for one layout
    of_layer = PUBLISHED["layer_speedup"][shape][row["policy"]][f"{row['gamma']:g}"]
    return [*cells, share(one.published, of_layer)]


def share(speedup: float, of_part: float) -> str:
    """The share of the time that must get faster by the second for the whole to get faster by the first."""
    found = scaling_share(speedup, of_part)
    return "" if found is None else f"{found:.0%}"


def write(folder: Path, compared: list[Compared], lines: list[str]) -> None:
    """Write everything that was compared as data, and the tables as the documentation has them."""
    body = {"published": PUBLISHED["source"], "rows": [vars(one) for one in compared]}
    (folder / "table.md").write_text("\n".join(lines), encoding="utf-8")
    (folder / "table.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
