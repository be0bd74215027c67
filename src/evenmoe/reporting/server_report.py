"""A running server's figures as a one-file HTML report.

Shape letters: L layers, D devices.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from evenmoe.reporting import plots
from evenmoe.reporting.html import Fact, HtmlTable, Section, TableRow, render_page, write_page
from evenmoe.reporting.tables import short_names
from evenmoe.serving.monitor import LoadFigures, SchedulingFigures, ServerFigures

Floats = NDArray[np.float64]


def server_report(figures: ServerFigures, url: str, path: Path) -> Path:
    """Draw what happened in a server between two scrapes, or since its start, to `path`."""
    sections = [] if figures.loads is None else _load_sections(figures.loads)
    sections += [] if figures.scheduling is None else [_scheduling_section(figures.scheduling)]
    page = render_page(
        title=f"How even is {url}?",
        subtitle=" ".join([_span(figures), _told(figures)]),
        facts=_facts(figures),
        sections=sections,
        provenance=figures.as_dict() | {"url": url},
    )
    return write_page(path, page)


def _span(figures: ServerFigures) -> str:
    if figures.restarted:
        return "Since the server's last start, which fell into the time of this report."
    return (
        "Since the server's start."
        if figures.seconds is None
        else f"{figures.seconds:.1f} s of a running server."
    )


def _told(figures: ServerFigures) -> str:
    least = f"Loads are told as sums over at least {figures.least_requests} requests"
    if figures.loads is None:
        return f"{least}, and none were told in this time."
    loads = figures.loads
    counts = f"{loads.num_requests} requests, {loads.num_tokens} tokens, {loads.num_steps} steps"
    return f"{least}; these are of {counts}."


def _facts(figures: ServerFigures) -> list[Fact]:
    facts = []
    if figures.loads is not None:
        loads = figures.loads
        facts = [
            Fact(value=f"{loads.straggler_factor:.2f} ×", text="straggler factor, as it ran"),
            Fact(value=f"{loads.straggler_factor_asked:.2f} ×", text="straggler factor, as the router asked"),
            Fact(value=f"{loads.expert_peak_to_mean:.2f} ×", text="busiest expert over the mean, as it ran"),
            Fact(value=f"{100 * loads.drop_rate:.2f} %", text="of assignments dropped"),
        ]
        if figures.seconds:
            facts.append(Fact(value=f"{loads.num_tokens / figures.seconds:.0f}", text="tokens per second"))
            facts.append(
                Fact(value=f"{loads.num_requests / figures.seconds:.2f}", text="requests per second")
            )
    return facts


def _load_sections(loads: LoadFigures) -> list[Section]:
    sections = [
        Section(
            title="Layer by layer",
            text="Straggler: busiest device's load over the even load of all that was asked for. "
            "Expert: busiest expert over the mean expert. Before: as the model's router asked; after: as it ran.",
            table=_layers_table(loads),
            figure=plots.to_svg(_layers_plot(loads)),
        )
    ]
    if loads.asked_LD.shape[1] > 1:
        sections.insert(0, _devices_section(loads))
    return sections


def _devices_section(loads: LoadFigures) -> Section:
    even_L = np.where(loads.even_L > 0, loads.even_L, 1.0)[:, None]
    panels = {"As the router asked": loads.asked_LD / even_L}
    if not np.array_equal(loads.asked_LD, loads.ran_LD):
        panels["As it ran"] = loads.ran_LD / even_L
    figure = plots.heat_map(
        panels, short_names(loads.layers), column_title="device", measure="load / even load of all asked"
    )
    for axis in figure.axes[: len(panels)]:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return Section(
        title="Load of every device",
        text="Each cell is a device's load over the whole time, over the even load. Steps differ more than their sum: "
        "a device that is busiest in one step and idle in the next looks even here and is waited for all the same.",
        figure=plots.to_svg(figure),
    )


def _layers_plot(loads: LoadFigures) -> Figure:
    """Straggler factor of each layer, before and after."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.2, 2.6))
        axis = figure.subplots()
        names = short_names(loads.layers)
        place_L = np.arange(len(names))
        before_L, after_L = (
            _ratio(loads.busiest_asked_L, loads.even_L),
            _ratio(loads.busiest_ran_L, loads.even_L),
        )
        axis.bar(place_L, before_L, width=0.8, color=plots.BEFORE, label="as the router asked")
        axis.bar(place_L, after_L, width=0.5, color=plots.AFTER, label="as it ran")
        axis.axhline(1.0, color="#444", lw=0.8)
        step = max(1, len(names) // 24)
        axis.set_xticks(place_L[::step], names[::step], fontsize=7)
        axis.set_xlabel("layer")
        axis.set_ylabel("straggler factor")
        axis.legend(frameon=False, fontsize=8, loc="lower right")
        return figure


def _layers_table(loads: LoadFigures) -> HtmlTable:
    columns = [
        "layer",
        "experts",
        "straggler before",
        "straggler after",
        "expert before",
        "expert after",
        "dropped, %",
        "tokens without expert, %",
    ]
    figures_L = zip(
        short_names(loads.layers),
        loads.num_experts_L,
        _ratio(loads.busiest_asked_L, loads.even_L),
        _ratio(loads.busiest_ran_L, loads.even_L),
        _ratio(loads.busiest_expert_asked_L, loads.even_expert_asked_L),
        _ratio(loads.busiest_expert_ran_L, loads.even_expert_ran_L),
        100 * (1 - _ratio(loads.kept_L, loads.pairs_L)),
        100 * (1 - _ratio(loads.tokens_L - loads.without_L, loads.tokens_L)),
        strict=True,
    )
    rows = [
        TableRow(cells=[name, str(experts), *(f"{value:.2f}" for value in values)])
        for name, experts, *values in figures_L
    ]
    return HtmlTable(columns=columns, rows=rows)


def _scheduling_section(scheduling: SchedulingFigures) -> Section:
    rows = [
        ("waiting, running at the end", f"{scheduling.num_waiting}, {scheduling.num_running}"),
        ("admitted", str(scheduling.num_admitted)),
        ("steps that admitted a younger request first, on average", _or_dash(scheduling.mean_passed_over)),
        ("time of a step's decision, ms on average", _or_dash(scheduling.mean_scheduling_ms)),
        ("99 % of decisions within, ms", _or_dash(scheduling.p99_scheduling_ms)),
        *(
            (f"prediction error, {name}", f"{error:.3f}")
            for name, error in scheduling.prediction_error.items()
        ),
        ("comparisons of predicted with observed loads", str(scheduling.num_feedback)),
        ("observed loads without predictions to match", str(scheduling.num_unaligned)),
    ]
    table = HtmlTable(columns=["", ""], rows=[TableRow(cells=row) for row in rows])
    text = "Prediction error is 1 - recent mean cosine of predicted and observed loads; 0 is perfect."
    return Section(title="Scheduling", text=text, table=table)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(above: Floats, below: Floats) -> Floats:
    """The ratio; 1 where there is nothing."""
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)
