"""Tables for the terminal, drawn with rich."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from evenmoe.evaluation.results import Results, Row
from evenmoe.loads import ExpertLoads, coefficient_of_variation, gini, peak_to_mean

COLUMNS = (
    ("policy", "left"),
    ("setting", "left"),
    ("accuracy %", "right"),
    ("change ± s.e.", "right"),
    ("bits/byte", "right"),
    ("dropped %", "right"),
    ("peak expert", "right"),
    ("straggler", "right"),
    ("gate mass %", "right"),
    ("no expert %", "right"),
)


def cells(row: Row) -> tuple[str, ...]:
    """One row of figures as text, in the order of COLUMNS; shared by the terminal and the HTML report."""
    change = "" if row.policy == "baseline" else f"{100 * row.accuracy_change:+.2f}"
    if change and row.accuracy_change_stderr is not None:
        change += f" ± {100 * row.accuracy_change_stderr:.2f}"
    return (
        row.family,
        row.setting,
        f"{100 * row.next_token_accuracy:.2f}",
        change,
        f"{row.bits_per_byte:.3f}",
        f"{100 * row.drop_rate:.1f}",
        f"{row.peak_to_mean_before:.2f} → {row.peak_to_mean_after:.2f}",
        f"{row.straggler_factor:.2f}",
        f"{100 * row.gate_mass_kept:.1f}",
        f"{100 * row.tokens_without_expert:.2f}",
    )


def results_table(results: Results, title: str | None = None) -> Table:
    """All rows of a sweep; a rule between policies."""
    table = Table(title=title, title_justify="left")
    for name, justify in COLUMNS:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for index, row in enumerate(results.rows):
        following = results.rows[index + 1] if index + 1 < len(results.rows) else row
        table.add_row(*cells(row), end_section=following.family != row.family)
    return table


def loads_table(loads: ExpertLoads, title: str | None = None) -> Table:
    """How uneven the experts are, per layer for everything and per domain: the busiest over the mean."""
    table = Table(title=title, title_justify="left")
    table.add_column("layer", no_wrap=True)
    for name, _ in loads:
        table.add_column("all" if name == "total" else name, justify="right")
    for name in ("CV", "Gini", "idle experts"):
        table.add_column(name, justify="right")
    for layer, layer_name in enumerate(loads.layers):
        num_experts = int(loads.num_experts_L[layer])
        load_E = loads.total.before_LE[layer, :num_experts]
        peaks = [f"{peak_to_mean(counts.before_LE[layer, :num_experts]):.2f}" for _, counts in loads]
        spread = f"{coefficient_of_variation(load_E):.2f}", f"{gini(load_E):.2f}"
        table.add_row(layer_name, *peaks, *spread, str(int(np.sum(load_E == 0))))
    return table
