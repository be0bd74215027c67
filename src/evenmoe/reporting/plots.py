"""Plots as matplotlib figures; no global state, so they can be drawn anywhere.

Shape letters: L MoE layers, E experts.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evenmoe.evaluation.results import Results, Row
from evenmoe.loads import ExpertLoads, peak_to_mean

COLORS = (
    "#2f6fb0",
    "#d1632f",
    "#2a9d6f",
    "#8a57b5",
    "#b0343c",
    "#6b7280",
    "#c39a1b",
    "#1f9aa8",
    "#d6649a",
    "#3f3f46",
)
MARKERS = "oXsDv^P<h>"
BEFORE, AFTER = "#c9d3de", "#2f6fb0"

STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "svg.hashsalt": "evenmoe",
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
}


def normalised(load_LE: NDArray[Any], num_experts_L: NDArray[Any]) -> NDArray[np.float64]:
    """Load over the mean load of its layer, [L, E]; NaN where a layer has no such expert."""
    load_LE = load_LE.astype(np.float64)
    mean_L = load_LE.sum(-1) / num_experts_L
    out = load_LE / np.where(mean_L > 0, mean_L, 1.0)[:, None]
    out[np.arange(load_LE.shape[1])[None, :] >= num_experts_L[:, None]] = np.nan
    return np.asarray(out)


def heat_map(
    panels: Mapping[str, NDArray[np.float64]],
    row_names: Sequence[str],
    row_title: str = "layer",
    *,
    column_title: str = "expert",
    measure: str = "load / mean of the layer",
) -> Figure:
    """Normalised loads [rows, columns], one panel each, on one colour scale: 1 is even."""
    with matplotlib.rc_context(STYLE):
        num_rows = len(row_names)
        height = 0.55 + len(panels) * (0.55 + 0.16 * max(num_rows, 3))
        figure = Figure(figsize=(8.2, height))
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        top = max(2.0, max(float(np.nanmax(panel)) for panel in panels.values()))
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            image = axis.imshow(
                panel, aspect="auto", cmap="YlOrRd", vmin=0.0, vmax=top, interpolation="nearest"
            )
            axis.set_title(title, loc="left", fontsize=9)
            step = max(1, num_rows // 16)
            axis.set_yticks(
                range(0, num_rows, step), [row_names[i] for i in range(0, num_rows, step)], fontsize=7
            )
            axis.set_ylabel(row_title)
            axis.spines[:].set_visible(False)
        axes[-1].set_xlabel(column_title)
        figure.colorbar(image, ax=list(axes), label=measure, fraction=0.03, pad=0.015)
        return figure


def quality_against_straggler(results: Results) -> Figure:
    """Accuracy over straggler factor: one line per policy, one point per gamma; up and left is better."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.4))
        axis = figure.subplots()
        base = results.rows[0]
        axis.axhline(100 * base.next_token_accuracy, color="#9aa3ad", lw=0.8, ls=":")
        axis.plot(
            base.straggler_factor, 100 * base.next_token_accuracy, "k*", ms=11, label="No limit", zorder=5
        )
        families: dict[str, list[Row]] = {}
        for row in results.rows[1:]:
            families.setdefault(row.family, []).append(row)
        for index, (label, rows) in enumerate(families.items()):
            rows = sorted(rows, key=lambda row: row.straggler_factor)
            x = [row.straggler_factor for row in rows]
            y = [100 * row.next_token_accuracy for row in rows]
            marker = MARKERS[index % len(MARKERS)]
            axis.plot(x, y, marker=marker, ms=4.5, lw=1.4, color=COLORS[index % len(COLORS)], label=label)
        axis.set_xlabel("straggler factor: busiest device over the even load (left is faster)")
        axis.set_ylabel("next-token accuracy, %")
        axis.legend(frameon=False, fontsize=8)
        return figure


def load_profile(
    before: ExpertLoads, after: ExpertLoads, layer: int, after_label: str, gamma: float | None
) -> Figure:
    """Normalised load of every expert of one layer, before and after (Capacity-Aware Inference, Figure 1).

    Both are over the mean load *before*, so a bar that shrinks is work that is not done.
    """
    num_experts = int(before.num_experts_L[layer])
    before_E = before.total.before_LE[layer, :num_experts].astype(np.float64)
    even = max(float(before_E.mean()), 1e-9)
    order = np.argsort(-before_E, kind="stable")
    after_E = after.total.after_LE[layer, :num_experts]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 2.9))
        axis = figure.subplots()
        x = np.arange(num_experts)
        axis.bar(x, before_E[order] / even, width=0.85, color=BEFORE, label="asked for by the router")
        axis.bar(x, after_E[order] / even, width=0.5, color=AFTER, label=after_label)
        axis.axhline(1.0, color="#444", lw=0.8)
        if gamma is not None:
            axis.axhline(gamma, color="#b0343c", lw=0.8, ls="--", label=f"capacity, γ = {gamma:g}")
        axis.set_xlabel(f"experts of {before.layers[layer]}, busiest first")
        axis.set_ylabel("load / even load")
        axis.set_xlim(-0.7, num_experts - 0.3)
        axis.legend(frameon=False, fontsize=8)
        return figure


def most_uneven_layer(loads: ExpertLoads) -> int:
    """The layer whose busiest expert is furthest above the mean."""
    peaks = [
        float(peak_to_mean(load_E[: int(num_experts)]))
        for load_E, num_experts in zip(loads.total.before_LE, loads.num_experts_L, strict=True)
    ]
    return int(np.argmax(peaks))


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG file on white."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return path
