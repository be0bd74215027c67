"""Plots of expert loads split into image and text tokens. Shape letters: L MoE layers, E experts."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads
from evenmoe.loads.modality import modality_profile
from evenmoe.reporting.plots import COLORS, STYLE

TEXT, IMAGE = COLORS[0], COLORS[1]
BASELINE = "as the router asked"


def modality_load_profile(panels: Mapping[str, ExpertLoads], layer: int) -> Figure:
    """Load of every expert of one layer, image tokens stacked over text tokens: what was asked, then what each ran.

    panels: loads counted with `attach(split="modality")`, by the policy's name; all of the same model and items. Loads
    are over the even load of all top-k assignments; experts stand in the order of what was asked of them in the first,
    busiest first, so that a panel is read against the one above it.
    Raises ConfigError for no panel, for loads without the split, and for a layer out of range.
    """
    if not panels:
        raise ConfigError("panels", {}, "at least one policy's loads")
    profiles = {name: modality_profile(loads, layer) for name, loads in panels.items()}
    first = next(iter(profiles.values()))
    bars = {BASELINE: (first.text_before_E, first.image_before_E)}
    bars |= {name: (profile.text_after_E, profile.image_after_E) for name, profile in profiles.items()}
    order = np.argsort(-(first.text_before_E + first.image_before_E), kind="stable")
    x = np.arange(len(order))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.6 + 1.45 * len(bars)))
        axes = figure.subplots(len(bars), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for axis, (name, (text_E, image_E)) in zip(axes, bars.items(), strict=True):
            axis.bar(x, text_E[order], width=0.85, color=TEXT, label="text tokens")
            axis.bar(x, image_E[order], width=0.85, bottom=text_E[order], color=IMAGE, label="image tokens")
            axis.axhline(1.0, color="#444", lw=0.8)
            axis.set_title(name, loc="left", fontsize=9)
            axis.set_ylabel("load / even")
        axes[0].legend(frameon=False, fontsize=8)
        axes[-1].set_xlabel(f"experts of {first.layer}, busiest first")
        axes[-1].set_xlim(-0.7, len(order) - 0.3)
        return figure
