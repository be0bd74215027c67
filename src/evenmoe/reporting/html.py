"""One-file HTML reports: no script, no outside file, everything drawn from saved data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray

from evenmoe.evaluation.results import Results, Row, read_results
from evenmoe.loads import ExpertLoads, peak_to_mean, read_loads
from evenmoe.reporting import plots
from evenmoe.reporting.summary import fastest_within, sentence
from evenmoe.reporting.tables import WIDE_COLUMNS, short_names


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Cells of one row; `first` draws a rule above it."""

    cells: Sequence[str]
    first: bool = False


@dataclass(frozen=True, kw_only=True)
class HtmlTable:
    """Column names and rows of text."""

    columns: Sequence[str]
    rows: Sequence[TableRow]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with any of: a paragraph, a table, a figure (an <svg> element)."""

    title: str
    text: str = ""
    table: HtmlTable | None = None
    figure: str = ""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A large number and the words under it."""

    value: str
    text: str


def sweep_report(out: Path) -> Path:
    """Draw `out`/report.html from `out`/results.json and the loads files it names; also the plots as PNG files.

    Raises FileNotFoundError or FileFormatError where the data is missing or damaged.
    """
    results = read_results(out / "results.json")
    featured = featured_rows(results)
    loads = {row.key: read_loads(out / row.loads_file) for row in (results.rows[0], *featured)}
    html = render_page(
        title=f"How even is {results.config['model']}?",
        subtitle=sentence(results),
        facts=_facts(results),
        sections=_sweep_sections(results, featured, loads),
        provenance={"config": results.config, "versions": results.versions},
    )
    plots.to_png(plots.quality_against_straggler(results), out / "quality.png")
    plots.to_png(_heat_map(results.rows[0], featured, loads), out / "heat_map.png")
    if featured:
        plots.to_png(_profile(results.rows[0], featured[-1], loads), out / "load_profile.png")
    return write_page(out / "report.html", html)


def loads_report(loads: ExpertLoads, path: Path, title: str) -> Path:
    """A report on recorded loads alone: per layer, per domain, and where the domains differ."""
    sections = [
        Section(
            title="Load of every expert",
            text="Each cell is the expert's load over the mean of its layer; 1 is even.",
            figure=plots.to_svg(_layer_map({"as routed": loads.total.before_LE}, loads)),
        ),
        Section(title="Busiest expert over the mean", table=_peaks_table(loads)),
        *_domain_sections(loads),
    ]
    html = render_page(
        title=title, subtitle=loads.source, facts=[], sections=sections, provenance={"source": loads.source}
    )
    return write_page(path, html)


def featured_rows(results: Results, gamma: float = 1.0) -> list[Row]:
    """The rows drawn as pictures: Token Drop by score, Expanded Drop and Fill at the gamma nearest to `gamma`."""
    found = []
    for policy in ("token_drop", "expanded_drop", "fill"):
        rows = [
            row
            for row in results.rows
            if row.policy == policy and row.gamma is not None and row.settings.get("keep", "score") == "score"
        ]
        if rows:
            found.append(min(rows, key=lambda row: abs((row.gamma or 0.0) - gamma)))
    return found


def _facts(results: Results) -> list[Fact]:
    base, best = results.rows[0], fastest_within(results)
    facts = [
        Fact(value=f"{base.peak_to_mean_before:.2f} ×", text="busiest expert over the mean, as routed"),
        Fact(value=f"{base.straggler_factor:.2f} ×", text="straggler factor without a limit"),
        Fact(value=f"{100 * base.next_token_accuracy:.2f} %", text="next-token accuracy without a limit"),
    ]
    if best:
        facts.append(Fact(value=f"{best.straggler_factor:.2f} ×", text=f"straggler factor with {best.label}"))
        facts.append(
            Fact(value=f"{100 * best.accuracy_change:+.2f}", text="points of accuracy, at that setting")
        )
    return facts


def _sweep_sections(
    results: Results, featured: Sequence[Row], loads: Mapping[str, ExpertLoads]
) -> list[Section]:
    base = results.rows[0]
    base_loads = loads[base.key]
    sections = [
        Section(
            title="How uneven the experts are, and what each policy leaves",
            text="Each cell is the expert's load over the mean of its layer. 1 is even.",
            figure=plots.to_svg(_heat_map(base, featured, loads)),
        ),
        Section(
            title="Quality against the straggler factor",
            text="One line per policy, one point per gamma. Left is faster, up is better.",
            figure=plots.to_svg(plots.quality_against_straggler(results)),
        ),
        Section(title="Every row", text=_TABLE_TEXT, table=_results_table(results)),
    ]
    if featured:
        sections.append(
            Section(
                title="The most uneven layer, expert by expert",
                text="Both bars are over the even load before any drop, so what a bar loses is work not done.",
                figure=plots.to_svg(_profile(base, featured[-1], loads)),
            )
        )
    sections.append(Section(title="Busiest expert over the mean, per domain", table=_peaks_table(base_loads)))
    return [*sections, *_domain_sections(base_loads)]


_TABLE_TEXT = (
    "Change: accuracy against no limit on the same windows, with the standard error of the paired difference. "
    "Peak: busiest expert over the mean expert per batch, as routed (before) and as it ran. Straggler: busiest "
    "device's load over the even load of all top-k assignments."
)


def _results_table(results: Results) -> HtmlTable:
    rows, last = [], ""
    for row in results.rows:
        cells = [column.text(row) for column in WIDE_COLUMNS]
        rows.append(TableRow(cells=cells, first=row.family != last))
        last = row.family
    return HtmlTable(columns=[column.name for column in WIDE_COLUMNS], rows=rows)


def _peaks_table(loads: ExpertLoads) -> HtmlTable:
    rows = [
        TableRow(
            cells=[
                name,
                *(
                    f"{peak_to_mean(counts.before_LE[layer, : int(loads.num_experts_L[layer])]):.2f}"
                    for _, counts in loads
                ),
            ]
        )
        for layer, name in enumerate(short_names(loads.layers))
    ]
    return HtmlTable(columns=["layer", *("all" if name == "total" else name for name, _ in loads)], rows=rows)


def _domain_sections(loads: ExpertLoads) -> list[Section]:
    if len(loads.by_tag) < 2:
        return []
    layer = plots.most_uneven_layer(loads)
    num_experts_L = np.full(len(loads.by_tag), loads.num_experts_L[layer])
    load_GE = np.stack([counts.before_LE[layer] for counts in loads.by_tag.values()])
    figure = plots.heat_map(
        {loads.layers[layer]: plots.normalised(load_GE, num_experts_L)}, list(loads.by_tag), "domain"
    )
    text = "Domains that light up different experts are what scheduling and placement can even out."
    return [Section(title="Which experts each domain uses", text=text, figure=plots.to_svg(figure))]


def _heat_map(base: Row, featured: Sequence[Row], loads: Mapping[str, ExpertLoads]) -> Any:
    panels = {"No limit": loads[base.key].total.before_LE}
    panels |= {row.label: loads[row.key].total.after_LE for row in featured}
    return _layer_map(panels, loads[base.key])


def _layer_map(panels: Mapping[str, NDArray[Any]], loads: ExpertLoads) -> Any:
    return plots.heat_map(
        {title: plots.normalised(load_LE, loads.num_experts_L) for title, load_LE in panels.items()},
        short_names(loads.layers),
    )


def _profile(base: Row, row: Row, loads: Mapping[str, ExpertLoads]) -> Any:
    before = loads[base.key]
    return plots.load_profile(before, loads[row.key], plots.most_uneven_layer(before), row.label, row.gamma)


def render_page(*, provenance: Mapping[str, Any], **values: Any) -> str:
    """A report as HTML, of `title`, `subtitle`, `facts`, `sections` and where its data came from."""
    return _template().render(provenance=json.dumps(provenance, indent=1, ensure_ascii=False), **values)


@cache
def _template() -> Template:
    loader = PackageLoader("evenmoe.reporting")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html")


def write_page(path: Path, html: str) -> Path:
    """Write a report, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path
