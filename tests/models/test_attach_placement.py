"""Placements with copies, and what a stopwatch hears."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, ShapeError, UnsupportedModelError
from evenmoe.placement import Placement, write_placement
from evenmoe.routing import Baseline, Fill, RoutingContext, TokenDrop
from tests.models.attach_reference import forward, ids_of, tiny_model, watch

COPIES = [[0, 1], 0, 1, [0, 1], 1, 0, 0, 1]


def test_a_placement_its_file_and_its_rows_are_the_same(tmp_path):
    model, ids = tiny_model("olmoe"), ids_of(rows=4)
    outputs = []
    file = write_placement(Placement.of(COPIES, 2), tmp_path / "placement.json")
    for placement in (Placement.of(COPIES, 2), COPIES, [COPIES, COPIES], file, str(file)):
        with evenmoe.attach(model, Fill(gamma=1.0), num_devices=2, placement=placement):
            outputs.append(forward(model, ids))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_copies_reach_the_policy_and_the_device_loads():
    model, ids = tiny_model("olmoe"), ids_of(rows=4)
    placement = Placement.of(COPIES, 2)
    policy = TokenDrop(gamma=1.0, level="device")
    with (
        evenmoe.attach(model, policy, num_devices=2, placement=placement) as attached,
        watch(attached) as steps,
    ):
        forward(model, ids)
        loads = attached.loads
    for step in steps:
        ctx = RoutingContext(
            num_devices=2,
            device_of_token_T=step.tokens.device_T,
            holds_DE=torch.from_numpy(placement.holds(0)),
        )
        assert torch.equal(step.kept_TE, policy.keep(step.scores_TE, step.chosen_TE, ctx))
    peak_L = [placement.device_load(load_E, 0).max() for load_E in loads.total.after_LE]
    np.testing.assert_allclose(loads.peaks.device_after_L, peak_L)


def test_a_placement_that_does_not_fit_is_refused():
    model = tiny_model("olmoe")
    with pytest.raises(ConfigError, match="for 2 devices"):
        evenmoe.attach(model, Baseline(), num_devices=4, placement=Placement.of(COPIES, 2))
    with pytest.raises(ShapeError, match="7 experts"):
        evenmoe.attach(model, Baseline(), num_devices=2, placement=Placement.of(COPIES[1:], 2))
    with pytest.raises(ShapeError, match="3 layers"):
        evenmoe.attach(model, Baseline(), num_devices=2, placement=Placement.of([COPIES] * 3, 2))


class Heard:
    separates_waiting = False

    def __init__(self):
        self.words = []

    def start(self, layer):
        self.words.append(layer)

    def mark(self, phase):
        self.words.append(phase)

    def stop(self):
        self.words.append("stop")


def test_a_stopwatch_hears_every_phase_of_every_layer():
    model, ids, heard = tiny_model("qwen2_moe"), ids_of(), Heard()
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached:
        with attached.timed(heard):
            forward(model, ids)
        forward(model, ids)
    one = ["gate", "rest", "policy", "permute", "expert", "permute", "stop"]
    assert heard.words == [0, *one, 1, *one]
    heard.words.clear()
    with evenmoe.attach(model, Baseline()) as attached, attached.timed(heard):
        forward(model, ids)
    assert heard.words == [
        0,
        "gate",
        "rest",
        "policy",
        "expert",
        "stop",
        *[1, "gate", "rest", "policy", "expert", "stop"],
    ]


def test_layers_that_cannot_be_timed_are_refused():
    with (
        evenmoe.attach(tiny_model("llama4"), Baseline()) as attached,
        pytest.raises(UnsupportedModelError, match="cannot be timed"),
        attached.timed(Heard()),
    ):
        pass
