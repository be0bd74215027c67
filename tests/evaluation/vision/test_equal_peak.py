"""The gamma at which two policies run equally fast."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import evenmoe
from evenmoe.errors import ConfigError
from evenmoe.evaluation.vision.equal_peak import expert_peak, gamma_for_peak
from evenmoe.loads import ExpertLoads, LoadCounts, StepPeaks
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.routing import Macs, TokenDrop


def test_a_smooth_peak_is_hit():
    found = gamma_for_peak(
        lambda gamma: min(0.3 + 0.8 * gamma, 3.0), target=1.1, tolerance=1e-3, most_runs=20
    )
    assert found.peak == pytest.approx(1.1, rel=1e-3)
    assert found.gamma == pytest.approx(1.0, rel=2e-3)
    assert found.tried[:2] == ((0.05, 0.3 + 0.8 * 0.05), (8.0, 3.0))
    assert (found.gamma, found.peak) in found.tried


def test_a_peak_that_moves_in_steps_gives_the_closest():
    runs = []

    def measure(gamma: float) -> float:
        runs.append(gamma)
        return math.ceil(gamma) / 2  # 0.5, 1.0, 1.5, ...

    found = gamma_for_peak(measure, target=1.1, most_runs=9)
    assert found.peak == 1.0
    assert len(runs) == len(found.tried) == 9
    assert 1 < found.gamma <= 2


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(
        ConfigError, match=r"target = 9 is not allowed: between 0\.05 at gamma 0\.05 and 8 at 8"
    ):
        gamma_for_peak(lambda gamma: gamma, target=9)
    with pytest.raises(ConfigError, match="0 < low < high"):
        gamma_for_peak(lambda gamma: gamma, target=1, low=2, high=1)


def test_expert_peak_by_hand():
    given = LoadCounts.undropped(np.array([[9, 5, 1, 1]]), top_k=1)
    loads = ExpertLoads(
        layers=("0",),
        num_experts_L=np.array([4]),
        top_k=1,
        total=LoadCounts(**given.arrays() | {"after_LE": np.array([[6, 5, 1, 1]])}),
    )
    with pytest.raises(ConfigError, match="peaks of their steps"):
        expert_peak(loads)
    # Two steps, whose busiest experts ran 4 and 3 pairs; 16 pairs were asked for, 4 an expert: 7 / 4.
    zeros = np.zeros(1)
    peaks = StepPeaks(
        num_devices=2,
        steps_L=np.array([2]),
        expert_before_L=np.array([10.0]),
        expert_after_L=np.array([7.0]),
        device_before_L=zeros,
        device_after_L=zeros,
    )
    assert expert_peak(replace(loads, peaks=peaks)) == 7 / 4


def test_macs_at_the_peak_of_token_drop():
    model, inputs = tiny_model("qwen3_vl_moe"), tiny_inputs("qwen3_vl_moe", 8, 40, images=True)

    def peak(policy) -> float:
        with evenmoe.attach(model, policy, num_devices=2) as attached:
            model(**inputs)
        return expert_peak(attached.loads)

    target = peak(TokenDrop(gamma=0.8))
    assert target <= 0.8 * 1.05  # C is rounded up
    found = gamma_for_peak(lambda gamma: peak(Macs(gamma=gamma, rho=0)), target, tolerance=0.05)
    assert found.peak == pytest.approx(target, rel=0.05)
    assert found.gamma < 0.8, "image tokens weigh about half, so MACS needs a smaller gamma for the same peak"
