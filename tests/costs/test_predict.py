"""predict_layer: against its slow oracle, a case worked by hand, and what must hold for any loads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.costs import LAYER_PHASES, Machine, predict_layer, read_machine
from evenmoe.costs.predict import pairs_exchanged
from evenmoe.costs.shape import SHAPES
from evenmoe.errors import ConfigError, ShapeError
from tests.costs.cost_cases import FREE, MACHINE, SHAPE, body, curve, holds, loads
from tests.oracles import costs as oracle

PLAIN = dataclasses.replace(SHAPE, shared_intermediate=0)
CONTIGUOUS = SHAPE.contiguous_holds(2)


def predict(
    load, tokens=(5, 7), placement=CONTIGUOUS, shape=SHAPE, machine=MACHINE, policy="baseline", **more
):
    return predict_layer(
        machine, shape, load_DE=load, tokens_D=tokens, placement_holds_DE=placement, policy=policy, **more
    )


@st.composite
def cases(draw):
    num_devices = draw(st.integers(1, 4))
    tokens = draw(st.lists(st.integers(0, 50), min_size=num_devices, max_size=num_devices))
    return draw(loads(num_devices)), tokens, draw(holds(num_devices))


@settings(max_examples=60)
@given(case=cases(), policy=st.sampled_from(sorted(MACHINE.policies)), shared=st.booleans())
def test_equals_the_oracle(case, policy, shared):
    load, tokens, placement = case
    shape = SHAPE if shared else PLAIN
    found = predict(load, tokens, placement, shape, policy=policy)
    expected = oracle.layer_ms(MACHINE, shape, load.tolist(), tokens, placement.tolist(), policy)
    assert float(found.layer_ms) == pytest.approx(expected, rel=1e-9)


def test_worked_by_hand():
    """Device 0 runs 4 + 0 + 12 pairs, device 1 runs 2; docs/costs.md works the same case."""
    load = np.array([[4, 0, 8, 2, 0, 0], [0, 0, 4, 0, 0, 0]], dtype=float)
    found = predict(load, tokens=(7, 2), shape=PLAIN)
    expert_0 = 3.0 + (3.0 + 8 * 6 / 16) + 0.5  # 4 tokens, then 12 tokens between the knots 4 and 20, one call
    expert_1 = (2.0 + 1 / 3) + 0.5
    assert found.phases["expert"].tolist() == pytest.approx([expert_0, expert_1])
    link = 0.3 + 4 * 32 / 4e5 * 1000  # device 1 sends 4 pairs of 8 float32, device 0 sends 2
    assert found.phases["combine"].tolist() == pytest.approx([link, link])
    assert found.phases["dispatch"].tolist() == pytest.approx([link + 0.4, link + 0.4])
    source_0 = (0.25 + 0.07) + (0.1 + 0.014) + (0.05 + 14 * 32 / 1e6 * 1000)
    unpack_0 = 0.07 + 14 * 32 / 2e6 * 1000
    assert float(found.layer_ms) == pytest.approx(source_0 + 2 * link + 0.4 + expert_0 + unpack_0)
    assert found.device_wait_ms[0] == pytest.approx(0.0)


@settings(max_examples=40)
@given(case=cases(), barriers=st.booleans())
def test_phases_of_each_device_sum_to_the_layer(case, barriers):
    load, tokens, placement = case
    found = predict(load, tokens, placement, barriers=barriers)
    assert tuple(found.phases) == LAYER_PHASES
    total_D = sum(found.phases.values())
    assert np.allclose(total_D, found.layer_ms)
    assert (found.device_wait_ms >= -1e-9).all()


@settings(max_examples=40)
@given(case=cases(), data=st.data())
def test_more_load_never_takes_less(case, data):
    load, tokens, placement = case
    more = load.copy()
    more[data.draw(st.integers(0, len(load) - 1)), data.draw(st.integers(0, load.shape[1] - 1))] += data.draw(
        st.floats(0, 30)
    )
    assert predict(more, tokens, placement).layer_ms >= predict(load, tokens, placement).layer_ms - 1e-9


@settings(max_examples=30)
@given(case=cases(), data=st.data())
def test_names_of_devices_and_experts_do_not_matter(case, data):
    load, tokens, placement = case
    devices = data.draw(st.permutations(range(len(load))))
    experts = data.draw(st.permutations(range(load.shape[1])))
    found = predict(load[devices][:, experts], [tokens[d] for d in devices], placement[devices][:, experts])
    assert float(found.layer_ms) == pytest.approx(float(predict(load, tokens, placement).layer_ms))


@settings(max_examples=30)
@given(load=loads(3), tokens=st.integers(1, 50))
def test_an_even_device_load_is_never_slower(load, tokens):
    """On a machine whose experts cost the same per pair however many there are."""
    knots = curve(4, (1, 0.5), (2, 1.0))
    machine = Machine(**body(experts=(knots,), expert_call_ms=0, link=FREE, pack=FREE, unpack=FREE))
    placement = SHAPE.contiguous_holds(3)
    even = np.full_like(load, load.sum() / load.size)
    skewed_ms, even_ms = (
        predict(loads_DE, [tokens] * 3, placement, PLAIN, machine).layer_ms for loads_DE in (load, even)
    )
    assert even_ms <= skewed_ms + 1e-9


@settings(max_examples=30)
@given(load=loads(2), factor=st.floats(1, 8))
def test_time_scales_with_load_where_nothing_is_fixed(load, factor):
    machine = Machine(
        **body(
            experts=(curve(4, (1, 0.5), (2, 1.0)),),
            expert_call_ms=0,
            dispatch_exchanges_ms=0,
            gates=({**body()["gates"][0], "fixed_ms": 0},),
            policies={"baseline": {"fixed_ms": 0, "per_pair_ms": 0.001}},
            **{part: {"fixed_ms": 0, "bytes_per_s": 1e6} for part in ("pack", "unpack", "link")},
        )
    )
    once = predict(load, [3, 4], shape=PLAIN, machine=machine).layer_ms
    scaled = predict(load * factor, [3 * factor, 4 * factor], shape=PLAIN, machine=machine).layer_ms
    assert float(scaled) == pytest.approx(float(once) * factor, rel=1e-6, abs=1e-9)


def test_no_load_costs_only_what_is_fixed():
    found = predict(np.zeros((2, 6)), tokens=(0, 0))
    assert found.phases["expert"].tolist() == [0, 0]
    fixed = 0.25 + 0.1 + 0.05 + 0.3 + 0.4 + 0.3 + 0.07
    assert float(found.layer_ms) == pytest.approx(fixed)


def test_many_layers_at_once_equal_one_by_one():
    rng = np.random.default_rng(0)
    load = rng.poisson(5, size=(3, 4, 2, 6)).astype(float)
    tokens = rng.integers(1, 20, size=(3, 4, 2))
    whole = predict(load, tokens)
    assert whole.layer_ms.shape == (3, 4)
    assert whole.phases["wait"].shape == (3, 4, 2)
    for step in range(3):
        for layer in range(4):
            one = predict(load[step, layer], tokens[step, layer])
            assert whole.layer_ms[step, layer] == pytest.approx(float(one.layer_ms))


def test_barriers_are_two_and_count_as_waiting():
    load = np.ones((2, 6))
    plain, met = predict(load), predict(load, barriers=True)
    assert float(met.layer_ms - plain.layer_ms) == pytest.approx(2 * MACHINE.barrier_ms)
    assert np.allclose(met.device_wait_ms - plain.device_wait_ms, 2 * MACHINE.barrier_ms)


def test_one_device_exchanges_nothing_and_needs_no_link():
    machine = Machine(**body(link=None))
    found = predict(np.ones((1, 6)), [3], SHAPE.contiguous_holds(1), machine=machine)
    assert found.phases["dispatch"].tolist() == found.phases["combine"].tolist() == [0]
    with pytest.raises(ConfigError, match="without a link"):
        predict(np.ones((2, 6)), machine=machine)


def test_pairs_that_stay_cost_no_link():
    placement = SHAPE.contiguous_holds(2)
    local = np.where(placement, 9.0, 0.0)
    assert pairs_exchanged(local, placement).tolist() == [0, 0]
    assert pairs_exchanged(local[::-1], placement).tolist() == [27, 27]
    everywhere = np.ones((2, 6), dtype=bool)
    assert pairs_exchanged(local, everywhere).tolist() == [13.5, 13.5]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"load_DE": np.ones((2, 5))}, ShapeError, r"load_DE has shape \[2, 5\]"),
        ({"load_DE": np.full((2, 6), np.nan)}, ConfigError, "load_DE = nan"),
        ({"load_DE": np.full((2, 6), -1.0)}, ConfigError, r"load_DE = -1\.0"),
        ({"tokens_D": [1]}, ShapeError, "tokens_D"),
        ({"tokens_D": [1, np.inf]}, ConfigError, "tokens_D = inf"),
        ({"placement_holds_DE": np.ones((2, 5), dtype=bool)}, ShapeError, r"bool \[D, 6\]"),
        ({"placement_holds_DE": np.ones((2, 6))}, ShapeError, "float64"),
        ({"placement_holds_DE": np.arange(12).reshape(2, 6) % 6 > 0}, ConfigError, "expert 0"),
        ({"policy": "fill"}, ConfigError, "baseline, token_drop"),
        ({"dtype": "bfloat16"}, ConfigError, r"8 x 6 \(top-2\), float32"),
        ({"shape": SHAPES["olmoe"], "load_DE": np.ones((2, 64)), "placement_holds_DE": np.ones((2, 64), bool)},
         ConfigError, "2048"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_fit(change, error, message):
    given = {
        "shape": SHAPE,
        "load_DE": np.ones((2, 6)),
        "tokens_D": [1, 1],
        "placement_holds_DE": CONTIGUOUS,
        **change,
    }
    with pytest.raises(error, match=message):
        predict_layer(MACHINE, given.pop("shape"), **given)


@pytest.mark.parametrize("name", ["h100-node", "h20-node"])
def test_datasheet_machines_know_when_balance_does_not_pay(name):
    """Token Drop with a few tokens per expert costs its own time and saves nothing; with thousands it pays."""
    machine, shape = read_machine(name), SHAPES["olmoe"]
    placement = shape.contiguous_holds(8)
    share = np.where(placement[0], 3.0, 1.0) / 80
    speedup = {}
    for tokens in (8, 8192):
        load = np.tile(share * tokens * shape.top_k, (8, 1))
        capped = np.minimum(load, np.ceil(tokens * shape.top_k / shape.num_experts))
        plain, limited = (
            predict_layer(
                machine,
                shape,
                load_DE=each,
                tokens_D=[tokens] * 8,
                placement_holds_DE=placement,
                policy=policy,
                dtype="bfloat16",
            )
            for each, policy in ((load, "baseline"), (capped, "token_drop"))
        )
        speedup[tokens] = float(plain.layer_ms / limited.layer_ms)
    assert speedup[8] <= 1 < 1.2 < speedup[8192]
