"""`evenmoe demo`: every policy on the MoE that ships."""

from __future__ import annotations

from pathlib import Path

from evenmoe.cli.options import DevicesOption, JsonOption, MixOption, OutOption, SeedOption
from evenmoe.cli.running import DEFAULT_DEVICES, make_config, run_and_report, texts_for

POLICIES = (
    "token_drop",
    "token_drop:level=device",
    "token_drop:keep=random",
    "token_drop:keep=first",
    "token_drop:keep=last",
    "expanded_drop",
    "fill",
    "expert_drop:fraction=0.1",
    "expert_drop:fraction=0.5",
    "expert_drop:fraction=0.75",
    "threshold_drop:threshold=0.1",
    "threshold_drop:threshold=0.2",
)

NUM_WINDOWS = 64
"""Two batches: about a minute on two cores."""


def demo(
    out: OutOption = Path("out/demo"),
    devices: DevicesOption = None,
    mix: MixOption = "mixed",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Show how uneven the experts of a real trained MoE are, what each policy does about it, and what it costs.

    Uses the bundled model and held-out text of every domain it knows; needs no network.
    """
    from evenmoe.evaluation.specs import parse_policies

    texts, names = texts_for(None)
    num_devices = devices or DEFAULT_DEVICES
    config = make_config(
        model="bundled:text",
        policies=parse_policies(POLICIES),
        texts=names,
        num_windows=NUM_WINDOWS,
        num_devices=num_devices,
        mix=mix,
        seed=seed,
    )
    run_and_report(
        config, texts, out, json, f"Bundled MoE, {num_devices} virtual devices, {len(texts)} domains"
    )
