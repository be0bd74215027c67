"""Figures of the scheduling study, drawn from its `results.json`; no global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evenmoe.reporting.plots import COLORS, STYLE
from evenmoe.reporting.simulation_tables import PATTERNS

STYLES: Mapping[str, tuple[str, str, float]] = {
    "fcfs": ("#111827", "-", 1.5),
    "random": (COLORS[5], "--", 1.4),
    "greedy_variance": (COLORS[0], "-", 1.2),
    "greedy_dot_product": (COLORS[0], "--", 1.2),
    "norm_minimizing": (COLORS[0], ":", 1.4),
    "best_fit": (COLORS[0], "-.", 1.2),
    "power_of_d": (COLORS[7], "-", 1.2),
    "power_of_d_dot": (COLORS[7], "--", 1.2),
    "differencing": (COLORS[3], "-", 1.2),
    "lpt_balanced": (COLORS[3], "--", 1.2),
    "karmarkar_karp": (COLORS[6], "-", 1.2),
    "lpt": (COLORS[6], "--", 1.2),
    "peak_excess": (COLORS[1], "-", 2.2),
    "auto": (COLORS[2], "-", 2.2),
}
"""Colour, line and width of each strategy: kin have one colour, ours are bold, and fcfs is drawn above all others."""

_DISTRIBUTIONS = ("fcfs", "random", "lpt", "greedy_variance", "peak_excess", "auto")
_P99 = "p99_reduction_pct"


def p99_by_rate(body: Mapping[str, Any]) -> Figure:
    """P99 latency of every strategy over the rate, one panel per arrival pattern, on a logarithmic axis."""
    with matplotlib.rc_context(STYLE):
        patterns = _patterns(body)
        figure = Figure(figsize=(9.0, 4.0))
        axes = figure.subplots(1, len(patterns), squeeze=False)[0]
        for axis, pattern in zip(axes, patterns, strict=True):
            rates = sorted(body[pattern], key=float)
            for strategy in body["strategies"]:
                mean = [body[pattern][rate][strategy]["p99_mean"] for rate in rates]
                axis.plot(list(map(float, rates)), mean, marker="o", ms=3, label=strategy, **_look(strategy))
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_xticks(list(map(float, rates)), rates)
            axis.set_xlabel("requests per second")
            axis.set_title(PATTERNS[pattern], loc="left", fontsize=9)
        axes[0].set_ylabel("P99 latency, s (mean over seeds)")
        _legend(figure, axes[0])
        return figure


def improvement_heat_map(body: Mapping[str, Any]) -> Figure:
    """P99 gain over fcfs in percent, strategies by pattern and rate; red is worse than fcfs."""
    with matplotlib.rc_context(STYLE):
        columns = [(pattern, rate) for pattern in _patterns(body) for rate in body[pattern]]
        rows = [name for name in body["strategies"] if name != "fcfs"]
        gain = np.array(
            [[body[pattern][rate]["_improvements"][name][_P99] for pattern, rate in columns] for name in rows]
        )
        figure = Figure(figsize=(1.8 + 0.75 * len(columns) + 0.9, 1.0 + 0.28 * len(rows)))
        axis = figure.subplots()
        image = axis.imshow(gain, aspect="auto", cmap="RdBu", vmin=-50, vmax=50, interpolation="nearest")
        for row, column in np.ndindex(*gain.shape):
            color = "white" if abs(gain[row, column]) > 32 else "#111827"
            axis.text(
                column, row, f"{gain[row, column]:+z.0f}", ha="center", va="center", fontsize=7, color=color
            )
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_xticks(
            range(len(columns)), [f"{pattern}\n{rate}/s" for pattern, rate in columns], fontsize=7
        )
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label="P99 gain over fcfs, % (cut at ±50)", fraction=0.04, pad=0.02)
        return figure


def imbalance_bars(body: Mapping[str, Any]) -> Figure:
    """Imbalance factor of every strategy, mean over rates and seeds; the least at the top."""
    with matplotlib.rc_context(STYLE):
        patterns = _patterns(body)
        mean = {
            pattern: {
                name: float(np.mean([at[name]["imbalance_mean"] for at in body[pattern].values()]))
                for name in body["strategies"]
            }
            for pattern in patterns
        }
        order = sorted(body["strategies"], key=lambda name: -mean[patterns[0]][name])
        figure = Figure(figsize=(9.0, 0.9 + 0.26 * len(order)))
        axes = figure.subplots(1, len(patterns), squeeze=False, sharey=True)[0]
        for axis, pattern in zip(axes, patterns, strict=True):
            values = [mean[pattern][name] for name in order]
            axis.barh(range(len(order)), values, color=[STYLES[name][0] for name in order], height=0.7)
            for place, value in enumerate(values):
                axis.text(value, place, f" {value:.3f}", va="center", fontsize=7)
            axis.set_xlim(1.0, 1.0 + 1.15 * (max(values) - 1.0))
            axis.set_yticks(range(len(order)), order, fontsize=8)
            axis.tick_params(axis="y", length=0)
            axis.set_xlabel("batch time over that of an even load")
            axis.set_title(PATTERNS[pattern], loc="left", fontsize=9)
        return figure


def latency_cdf(body: Mapping[str, Any]) -> Figure:
    """Share of requests done within a latency, at the lowest and the highest rate of each pattern."""
    with matplotlib.rc_context(STYLE):
        quantiles, patterns = body["latency_quantiles_s"], _patterns(body)
        share = np.array(quantiles["percentiles"]) / 100
        panels = []
        for pattern in patterns:
            rates = sorted(body[pattern], key=float)
            panels += [(pattern, rate) for rate in dict.fromkeys((rates[0], rates[-1]))]
        figure = Figure(figsize=(9.0, 2.6 * len(patterns)))
        axes = figure.subplots(len(patterns), len(panels) // len(patterns), squeeze=False)
        shown = [name for name in _DISTRIBUTIONS if name in body["strategies"]]
        for axis, (pattern, rate) in zip(axes.flat, panels, strict=True):
            for name in shown:
                axis.plot(quantiles[pattern][rate][name], share, label=name, **_look(name))
            axis.axhline(0.99, color="#9aa3ad", lw=0.7, ls=":")
            axis.set_xlim(left=0.0)
            axis.set_ylim(0.0, 1.005)
            axis.set_title(f"{PATTERNS[pattern]}, {rate}/s", loc="left", fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("latency, s")
        for axis in axes[:, 0]:
            axis.set_ylabel("share of requests")
        _legend(figure, axes.flat[0])
        return figure


def steady_gains(body: Mapping[str, Any]) -> Figure:
    """P50 and P99 gains over fcfs with their 95% intervals, over the share of fcfs's capacity."""
    with matplotlib.rc_context(STYLE):
        lines, patterns = body["steady_state"]["lines"], _patterns(body)
        figure = Figure(figsize=(9.0, 2.7 * len(patterns)))
        axes = figure.subplots(len(patterns), 2, squeeze=False, sharex=True)
        names = list(dict.fromkeys(line["strategy"] for line in lines if line["p99_gain"] is not None))
        for (row, column), axis in np.ndenumerate(axes):
            pattern, (key, title) = patterns[row], (("p50_gain", "P50"), ("p99_gain", "P99"))[column]
            for number, name in enumerate(names):
                color, _, width = STYLES[name]
                found = [line for line in lines if (line["pattern"], line["strategy"]) == (pattern, name)]
                x = np.array([100 * line["share"] for line in found]) + 0.5 * (number - (len(names) - 1) / 2)
                y = np.array([100 * line[key]["mean"] for line in found])
                half = [
                    0.0 if line[key]["low"] is None else 50 * (line[key]["high"] - line[key]["low"])
                    for line in found
                ]
                axis.errorbar(
                    x, y, half, color=color, lw=width, marker="o", ms=3, capsize=2, elinewidth=0.9, label=name
                )
            axis.axhline(0.0, color="#111827", lw=0.8)
            axis.set_title(f"{PATTERNS[pattern]}: {title} gain over fcfs, %", loc="left", fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("load, % of fcfs's capacity")
        _legend(figure, axes.flat[0])
        return figure


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], Figure]] = {
    "p99_by_rate": p99_by_rate,
    "improvement_heat_map": improvement_heat_map,
    "imbalance": imbalance_bars,
    "latency_cdf": latency_cdf,
    "steady_state": steady_gains,
}


def write_figures(body: Mapping[str, Any], out: Path) -> list[Path]:
    """Write every figure that the results have data for as PDF and PNG; the same results give the same bytes."""
    paths = []
    for name, draw in FIGURES.items():
        if (name == "steady_state" and body["steady_state"] is None) or (
            name == "improvement_heat_map" and len(body["strategies"]) < 2
        ):
            continue
        figure = draw(body)
        for suffix in ("pdf", "png"):
            path = out / f"{name}.{suffix}"
            path.write_bytes(_bytes(figure, suffix))
            paths.append(path)
    return paths


def _bytes(figure: Figure, suffix: str) -> bytes:
    metadata = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=150, facecolor="white", metadata=metadata[suffix])
    return buffer.getvalue()


def _look(strategy: str) -> dict[str, Any]:
    color, line, width = STYLES[strategy]
    return {"color": color, "ls": line, "lw": width, "zorder": 5 if strategy == "fcfs" else 3}


def _patterns(body: Mapping[str, Any]) -> Sequence[str]:
    return [pattern for pattern in PATTERNS if pattern in body]


def _legend(figure: Figure, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
