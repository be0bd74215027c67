"""The page on workloads runs as printed and names every setting with its default."""

import doctest
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from evenmoe.simulation.workloads.arrivals import DEFAULT_BURST_REQUESTS, Bursty, Poisson, Replayed
from evenmoe.simulation.workloads.load_noise import LoadNoise
from evenmoe.simulation.workloads.load_sources import PRIOR_NOISE, SyntheticTopics

PAGE = Path(__file__).parents[2] / "docs" / "workloads.md"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 30


@pytest.mark.parametrize("config", [Poisson, Bursty, Replayed, LoadNoise], ids=lambda config: config.__name__)
def test_the_page_names_every_setting(config):
    text = PAGE.read_text()
    assert all(f"`{field.name}`" in text for field in fields(config))


def test_the_page_states_the_defaults():
    text, noise = PAGE.read_text(), LoadNoise()
    assert f"| `request` | {noise.request:g} |" in text
    assert f"`request` of\n{PRIOR_NOISE.request:.2f}" in text
    assert f"| `alike_tokens` | {noise.alike_tokens:g} |" in text
    assert f"mean requests of a burst | {DEFAULT_BURST_REQUESTS:g} |" in text
    assert f"over the mean rate | {Bursty(rate_per_s=1).intensity:g} |" in text
    assert f"(default {SyntheticTopics().concentration:g})" in text


@pytest.mark.parametrize(("tokens", "misplaced"), [(64, 0.008), (16, 0.035)])
def test_load_misplaced_in_short_prompts_is_as_stated(tokens, misplaced):
    expected_LE = SyntheticTopics().expected_GLE[0]
    expected_NLE = np.broadcast_to(expected_LE, (20_000, *expected_LE.shape))
    noise = LoadNoise(request=0, alike_tokens=1)
    load_NLE, _ = noise.draw(expected_NLE, np.full(20_000, tokens), 4, np.random.default_rng(0))
    assert np.abs(load_NLE.mean(0) - expected_LE).sum() / 4 / 2 == pytest.approx(misplaced, rel=0.1)
    if tokens == 64:
        ratio_LE = load_NLE.var(0) * tokens / (expected_LE * (1 - expected_LE))
        ratio = ratio_LE[expected_LE > 0.5 * expected_LE.mean()]
        assert 0.85 < ratio.min() < 0.9
        assert ratio.max() < 1.03
