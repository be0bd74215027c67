"""Speedups as figures, drawn from what `bench layer` and `bench model` wrote: ours beside published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from evenmoe.errors import FileFormatError
from evenmoe.reporting.plots import COLORS, STYLE

Published = Mapping[str, Mapping[str, float]]
"""Policy -> gamma as text, without trailing zeros -> speedup."""
PHASES = ("gate", "policy", "permute", "dispatch", "expert", "combine", "rest", "wait")
"""From the left of a stacked bar to its right: what a device does, then what it waits."""
_POLICY_COLORS = {"Token Drop": COLORS[0], "Expanded Drop": COLORS[1], "Fill": COLORS[2]}
_PHASE_COLORS = {
    "gate": "#c39a1b",
    "policy": "#8a57b5",
    "permute": "#2a9d6f",
    "dispatch": "#1f9aa8",
    "expert": "#2f6fb0",
    "combine": "#7fc4cc",
    "rest": "#9aa3ad",
    "wait": "#e3a28a",
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One speedup: measured, promised by the loads alone, and published (None where nobody did)."""

    group: str
    policy: str
    gamma: float
    ours: float
    by_loads: float
    published: float | None
    straggler_before: float
    straggler_after: float


def read_bench(path: Path) -> dict[str, Any]:
    """Read what a bench wrote with --json. Raises FileNotFoundError, FileFormatError for anything else."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(body, dict) or not {"mode", "config", "rows"} <= set(body) or not body["rows"]:
        raise FileFormatError(f"{path} is no result of `evenmoe bench layer` or `evenmoe bench model`")
    return body


def compare(
    body: Mapping[str, Any], group: str, published: Published | None = None, part: str | None = None
) -> list[Compared]:
    """Return every row of a bench with a gamma, beside the published speedup of its policy and gamma.

    part: "prefill" or "decode", for a bench of a model. The first row is what the others are compared with.
    """
    rows = [row for row in body["rows"] if row.get("part") == part]
    if not rows:
        raise FileFormatError(f"{group}: there are no rows of {part or 'a layer'}")
    return [
        Compared(
            group=group,
            policy=row["policy"],
            gamma=row["gamma"],
            ours=row["speedup"],
            by_loads=row["load_speedup"],
            published=(published or {}).get(row["policy"], {}).get(f"{row['gamma']:g}"),
            straggler_before=rows[0]["straggler_factor"],
            straggler_after=row["straggler_factor"],
        )
        for row in rows
        if row["gamma"] is not None
    ]


def scaling_share(speedup: float, of_part: float) -> float | None:
    """Return the share s of the time that must be the part that gets `of_part` times faster, for the whole to get
    `speedup` times faster: speedup = 1 / (1 - s + s / of_part). Above 1, it cannot; None where the part hardly changes.
    """
    return None if of_part <= 1.02 else (1.0 - 1.0 / speedup) / (1.0 - 1.0 / of_part)


def speedup_figure(compared: Sequence[Compared], num_columns: int = 2) -> Figure:
    """One panel per group: at each gamma a bar per policy, the published one hollow behind it; higher is faster."""
    groups = list(dict.fromkeys(one.group for one in compared))
    policies = list(dict.fromkeys(one.policy for one in compared))
    num_rows = -(-len(groups) // num_columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.6 + 2.1 * num_rows))
        axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).reshape(-1)
        for axis, group in zip(axes, groups, strict=False):
            _panel(axis, group, [one for one in compared if one.group == group], policies)
        for axis in axes[len(groups) :]:
            axis.set_visible(False)
        for axis in axes[::num_columns]:
            axis.set_ylabel("speedup")
        figure.legend(
            handles=_speedup_legend(policies),
            loc="outside upper center",
            ncols=len(policies) + 2,
            frameon=False,
            fontsize=8,
        )
        return figure


def _panel(axis: Axes, group: str, compared: Sequence[Compared], policies: Sequence[str]) -> None:
    gammas = sorted({one.gamma for one in compared}, reverse=True)
    width = 0.8 / len(policies)
    for one in compared:
        left = gammas.index(one.gamma) - 0.4 + policies.index(one.policy) * width
        color = _POLICY_COLORS.get(one.policy, COLORS[5])
        axis.bar(left + width / 2, one.ours, width * 0.86, color=color)
        axis.plot([left + width * 0.1, left + width * 0.9], [one.by_loads] * 2, color="#b0343c", lw=1.4)
        if one.published is not None:
            axis.bar(left + width / 2, one.published, width * 0.86, fill=False, edgecolor="#222", lw=1.2)
        axis.text(left + width / 2, 0.04, f"{one.ours:.2f}", ha="center", color="white", fontsize=6.5)
    before = compared[0].straggler_before
    axis.set_title(f"{group}\nstraggler factor without a limit {before:.2f}", loc="left", fontsize=8)
    axis.axhline(1.0, color="#777", lw=0.7, ls=":")
    axis.set_xticks(range(len(gammas)), [f"γ {gamma:g}" for gamma in gammas])


def _speedup_legend(policies: Sequence[str]) -> list[Patch | Line2D]:
    patches: list[Patch | Line2D] = [
        Patch(color=_POLICY_COLORS.get(policy, COLORS[5]), label=policy) for policy in policies
    ]
    patches.append(Patch(fill=False, edgecolor="#222", lw=1.2, label="published"))
    patches.append(Line2D([], [], color="#b0343c", lw=1.4, label="what the loads promise"))
    return patches


def latency_figure(panels: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel per bench of a layer: a bar per row, its phases side by side, mean over devices, in milliseconds."""
    heights = [len(body["rows"]) for body in panels.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.7 + sum(0.55 + 0.27 * height for height in heights)))
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (title, body) in zip(axes, panels.items(), strict=True):
            _stacked(axis, body["rows"])
            axis.set_title(title, loc="left", fontsize=9)
        axes[-1].set_xlabel("milliseconds of one layer, mean over devices")
        handles = [Patch(color=_PHASE_COLORS[phase], label=phase) for phase in PHASES]
        figure.legend(handles=handles, loc="outside upper center", ncols=8, frameon=False, fontsize=8)
        return figure


def _stacked(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    longest = max(sum(row["phases_mean"].values()) for row in rows)
    for place, row in enumerate(rows):
        left = 0.0
        for phase in PHASES:
            width = row["phases_mean"][phase]
            axis.barh(place, width, left=left, height=0.72, color=_PHASE_COLORS[phase])
            if width > 0.05 * longest:
                axis.text(
                    left + width / 2,
                    place,
                    f"{width:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white",
                )
            left += width
        axis.text(
            left + 0.008 * longest, place, f"{left:.0f} ms, {row['speedup']:.2f}x", va="center", fontsize=7
        )
    axis.set_yticks(range(len(rows)), [row_name(row) for row in rows])
    axis.set_xlim(0, 1.17 * longest)
    axis.invert_yaxis()


def row_name(row: Mapping[str, Any]) -> str:
    """Return what people call a row: "Token Drop, γ 1"."""
    return row["policy"] if row["gamma"] is None else f"{row['policy']}, γ {row['gamma']:g}"
