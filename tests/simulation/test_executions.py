"""Execution models: by hand, and beside a slow version that prices one layer of one forward at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.costs import LayerShape, predict_layer, read_machine
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads import coefficient_of_variation, straggler_factor
from evenmoe.placement import Placement
from evenmoe.simulation import CvExecution, Dropping, FormulaCosts, MachineCosts, Request, StragglerExecution

MACHINE = read_machine("h100-node")
SHAPE = LayerShape(name="small", hidden=64, intermediate=128, num_experts=8, top_k=2, num_layers=6)


def request_of(number, prompt, output, load, predicted=None):
    load_X = np.asarray(load, dtype=np.float64).reshape(-1)
    told_X = load_X if predicted is None else np.asarray(predicted, dtype=np.float64).reshape(-1)
    return Request(number, 0.0, prompt, output, 0, load_X, told_X)


def drawn(rng, count, num_layers=2, num_experts=8, top_k=2):
    """Requests of uneven loads and different lengths."""
    loads = rng.dirichlet(np.full(num_experts, 0.5), (count, num_layers)) * top_k
    return [
        request_of(
            n, int(rng.integers(1, 40)), int(rng.integers(1, 6)), loads[n], rng.permutation(loads[n].T).T
        )
        for n in range(count)
    ]


def test_cv_by_hand():
    """Loads 4, 0 and 0, 2 per token of 3 tokens each: 12, 6, whose CV is a third. One device computes 9 of 12."""
    model = CvExecution(
        sensitivity=1.5, prefill_s=0.2, prefill_token_s=0.1, decode_s=1.0, decode_token_s=0.25
    )
    one, other = request_of(0, 2, 2, [4, 0]), request_of(1, 1, 3, [0, 2])
    cost, first_B, last_B = model.batch([one, other])
    assert cost.imbalance == pytest.approx(1.5)
    assert cost.seconds == pytest.approx(1.5 * (0.2 + 0.1 * 3 + 1.0 * 2 + 0.25 * 3))
    assert first_B.tolist() == pytest.approx([0.75, 0.75])
    assert last_B.tolist() == pytest.approx([0.75 + 1.5 * 2.75 / 2, cost.seconds])
    assert cost.busy_share == pytest.approx(2 / 3)
    assert (cost.straggler_factor, cost.pairs, cost.dropped_pairs) == (pytest.approx(12 / 9), 18.0, 0.0)
    assert model.view(one).tolist() == [12.0, 0.0]


def test_cv_of_an_iteration_by_hand():
    model = CvExecution(
        sensitivity=0.0, prefill_s=0.2, prefill_token_s=0.1, decode_s=1.0, decode_token_s=0.25
    )
    requests = [request_of(number, 9, 9, [1, 1]) for number in range(3)]
    assert model.step(requests, np.array([4, 1, 1])).seconds == pytest.approx(0.2 + 0.4 + 1.0 + 0.5)
    assert model.step(requests[:2], np.array([1, 1])).seconds == pytest.approx(1.5)
    assert model.step(requests[:1], np.array([4])).seconds == pytest.approx(0.6)


def test_cv_is_the_mean_over_layers():
    model = CvExecution(prefill_s=1.0, num_layers=2)
    cost, *_ = model.batch([request_of(0, 1, 1, [[2, 0], [1, 1]])])
    assert cost.imbalance == pytest.approx(1 + np.mean([coefficient_of_variation([2, 0]), 0.0]))


def test_even_loads_cost_the_same_for_every_sensitivity():
    requests = [request_of(0, 5, 3, [1, 1, 1, 1])]
    costs = [CvExecution(sensitivity=s, prefill_s=0.1, decode_s=0.2).batch(requests)[0] for s in (0.0, 7.0)]
    assert costs[0] == costs[1]


def slow_batch(requests, devices, placement, num_devices, costs_of_layer):
    """(seconds to the first token, seconds to the last of each request) of a static batch, forward by forward."""
    scale = SHAPE.num_layers / 2
    now_s, first_s, last_B = 0.0, None, [0.0] * len(requests)
    for forward in range(max(request.output_tokens for request in requests)):
        load_LDE, tokens_D = np.zeros((2, num_devices, 8)), np.zeros(num_devices)
        for request, device in zip(requests, devices, strict=True):
            if request.output_tokens > forward:
                tokens = request.prompt_tokens if forward == 0 else 1
                load_LDE[:, device] += tokens * request.load_X.reshape(2, 8)
                tokens_D[device] += tokens
        for layer in range(2):
            now_s += scale * costs_of_layer(load_LDE[layer], tokens_D, placement.holds(layer))
        first_s = now_s if first_s is None else first_s
        for number, request in enumerate(requests):
            if request.output_tokens == forward + 1:
                last_B[number] = now_s
    return first_s, last_B


def machine_layer(load_DE, tokens_D, holds_DE):
    return (
        predict_layer(
            MACHINE, SHAPE, load_DE=load_DE, tokens_D=tokens_D, placement_holds_DE=holds_DE, dtype="bfloat16"
        ).layer_ms
        / 1000
    )


def formula_layer(load_DE, tokens_D, holds_DE):
    """2 + 3 per active expert + 5 per pair on the slowest device + 7 per pair of the fullest exchange."""
    device_of = [int(np.flatnonzero(holds_DE[:, expert])[0]) for expert in range(8)]
    work_D, sent_D, received_D = np.zeros((3, len(holds_DE)))
    for source in range(len(holds_DE)):
        for expert, pairs in enumerate(load_DE[source]):
            if device_of[expert] != source:
                sent_D[source] += pairs
                received_D[device_of[expert]] += pairs
    for expert, pairs in enumerate(load_DE.sum(0)):
        work_D[device_of[expert]] += 3 * min(pairs, 1.0) + 5 * pairs
    return 2 + work_D.max() + 7 * np.maximum(sent_D, received_D).max()


FORMULA = FormulaCosts(layer_s_fixed=2.0, expert_s=3.0, pair_s=5.0, exchange_pair_s=7.0)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans(), st.booleans())
def test_a_static_batch_is_its_forwards_one_after_the_other(seed, count, by_machine, same_placement):
    rng = np.random.default_rng(seed)
    requests = drawn(rng, count)
    rows = [rng.permutation([0, 0, 0, 1, 1, 2, 2, 3]).tolist() for _ in range(2)]
    placement = Placement.of([rows[0], rows[0] if same_placement else rows[1]], 4)
    model = StragglerExecution(
        SHAPE,
        num_loads=2,
        num_devices=4,
        placement=placement,
        costs=MachineCosts(machine=MACHINE, shape=SHAPE) if by_machine else FORMULA,
    )
    small, larger = divmod(count, 4)
    devices = np.repeat(np.arange(4), [small + (device < larger) for device in range(4)])
    first_s, expected_B = slow_batch(
        requests, devices, placement, 4, machine_layer if by_machine else formula_layer
    )
    cost, first_B, last_B = model.batch(requests)
    np.testing.assert_allclose(last_B, expected_B, rtol=1e-9)
    np.testing.assert_allclose(first_B, first_s, rtol=1e-9)
    assert cost.seconds == pytest.approx(max(expected_B))
    pairs = sum(request.tokens for request in requests) * 2 * SHAPE.num_layers
    assert (cost.pairs, cost.dropped_pairs) == (pytest.approx(pairs), 0.0)
    assert 0 < cost.busy_share <= 1
    whole = model.step(requests, np.array([request.prompt_tokens for request in requests]))
    assert whole.seconds == pytest.approx(first_s)


def test_the_straggler_factor_is_that_of_the_metrics():
    """One forward, experts in order on 2 devices: the sum of peaks over the sum of means."""
    load = [[2, 0, 0, 0, 0, 0, 0, 0], [0.5, 0, 0.5, 0, 0, 0.5, 0, 0.5]]
    model = StragglerExecution(SHAPE, num_loads=2, num_devices=2)
    cost, *_ = model.batch([request_of(0, 10, 1, load)])
    assert cost.straggler_factor == pytest.approx(straggler_factor([[20, 0], [10, 10]])) == 1.5


def test_with_few_tokens_touching_fewer_experts_is_worth_more_than_evenness():
    """All pairs on expert 0, or spread over 8: the fixed cost of an expert against the cost of a pair."""
    load = [2, 0, 0, 0, 0, 0, 0, 0]
    costs = FormulaCosts(layer_s_fixed=0.0, expert_s=1.0, pair_s=0.1, exchange_pair_s=0.0)
    model = StragglerExecution(SHAPE, num_loads=1, num_devices=2, costs=costs)
    few, many = (model.batch([request_of(0, tokens, 1, load)])[0].imbalance for tokens in (10, 1000))
    assert few == pytest.approx((1 + 0.1 * 20) / (4 + 0.1 * 10))
    assert many == pytest.approx((1 + 0.1 * 2000) / (4 + 0.1 * 1000))
    assert few < 1 < many


def test_even_loads_have_no_imbalance():
    model = StragglerExecution(SHAPE, num_loads=2, num_devices=4, costs=FORMULA)
    requests = [request_of(number, 16, 3, np.full(16, 0.25)) for number in range(8)]
    cost, *_ = model.batch(requests)
    assert (cost.imbalance, cost.straggler_factor) == (pytest.approx(1.0), pytest.approx(1.0))
    # 2 requests, so 2 * 16 tokens, on each of 4 sources; of 64 pairs to send 48 go to other devices
    prefill_s, exchange_s = 2 + 2 * (3 + 5 * 32), 7 * 48
    whole = model.step(requests, np.full(8, 16))
    assert whole.seconds == pytest.approx(SHAPE.num_layers * (prefill_s + exchange_s))
    assert whole.busy_share == pytest.approx(prefill_s / (prefill_s + exchange_s)), (
        "exchanges compute nothing"
    )


def test_the_scheduler_sees_predicted_pairs_by_device():
    model = StragglerExecution(SHAPE, num_loads=2, num_devices=4)
    load, predicted = np.zeros(16), np.arange(16)
    seen = model.view(request_of(0, 2, 2, load, predicted))
    assert model.num_view_layers == 2
    assert seen.tolist() == [3 * (2 * pair + 2 * pair + 1) for pair in range(8)]


def test_copies_share_an_experts_pairs():
    rows = [[[0, 1], 0, 0, 0, 1, 1, 1, 1]]
    model = StragglerExecution(SHAPE, num_loads=1, num_devices=2, placement=Placement.of(rows, 2))
    assert model.view(request_of(0, 4, 1, [2, 0, 0, 0, 0, 0, 0, 0])).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("policy", ["token_drop", "fill", "expanded_drop"])
def test_dropping_shortens_the_slowest_device_and_is_counted(policy):
    load = np.array([2.0] + [0.0] * 7)
    requests = [request_of(number, 64, 4, load) for number in range(4)]
    plain = StragglerExecution(SHAPE, num_loads=1, num_devices=4, costs=FORMULA)
    dropping = Dropping(policy=policy, gamma=1.0)
    dropped = StragglerExecution(SHAPE, num_loads=1, num_devices=4, costs=FORMULA, dropping=dropping)
    before, after = plain.batch(requests)[0], dropped.batch(requests)[0]
    # 64 tokens of each source, top-2 of 8 experts: C = 16 of 128 pairs in prefill; 3 decode forwards are too short
    assert after.dropped_pairs == pytest.approx((128 - 16) * 4 * SHAPE.num_layers)
    assert after.seconds < before.seconds
    assert after.straggler_factor == before.straggler_factor, "it is what was asked for"


def test_only_the_steps_in_which_the_policy_acts_pay_for_it():
    requests = [request_of(number, 64, 3, np.full(8, 0.25)) for number in range(4)]
    costs = MachineCosts(machine=MACHINE, shape=SHAPE)
    seconds = [
        StragglerExecution(SHAPE, num_loads=1, num_devices=4, costs=costs, dropping=dropping).batch(requests)[
            2
        ][0]
        for dropping in (None, Dropping(policy="token_drop", gamma=8.0))
    ]
    fixed_ms = MACHINE.policies["token_drop"].fixed_ms - MACHINE.policies["baseline"].fixed_ms
    assert seconds[1] - seconds[0] == pytest.approx(SHAPE.num_layers * fixed_ms / 1000), "once, in prefill"


@pytest.mark.parametrize("method", ["arrival", "random", "balanced"])
def test_requests_are_dealt_to_devices_as_scheduling_deals_them(method):
    rng = np.random.default_rng(0)
    requests = drawn(rng, 12)
    model = StragglerExecution(SHAPE, num_loads=2, num_devices=4, assign_method=method)
    first, again = model.batch(requests)[0], model.batch(requests)[0]
    assert first == again, "the same step gives the same result, whatever ran before"


def test_what_a_forward_takes_beside_its_moe_layers():
    requests = [request_of(0, 30, 1, np.full(8, 0.25)), request_of(1, 10, 1, np.full(8, 0.25))]
    plain = StragglerExecution(SHAPE, num_loads=1, num_devices=2, costs=FORMULA)
    beside = StragglerExecution(SHAPE, num_loads=1, num_devices=2, costs=FORMULA, step_s=100.0, token_s=2.0)
    tokens_B = np.array([30, 10])
    more_s = beside.step(requests, tokens_B).seconds - plain.step(requests, tokens_B).seconds
    assert more_s == pytest.approx(100 + 2 * 30)


@pytest.mark.parametrize(
    ("settings", "error", "field"),
    [
        ({"num_devices": 0}, ConfigError, "num_devices"),
        ({"num_devices": 9}, ConfigError, "num_devices"),
        ({"num_loads": 0}, ConfigError, "num_loads"),
        ({"assign_method": "best"}, ConfigError, "assign_method"),
        ({"step_s": -1.0}, ConfigError, "step_s"),
        ({"placement": Placement.of([[0, 1] * 4], 2)}, ShapeError, "2 devices"),
        ({"placement": Placement.of([[0, 1, 2, 3]], 4)}, ShapeError, "4 experts"),
    ],
)
def test_machines_that_cannot_be_are_refused(settings, error, field):
    with pytest.raises(error, match=field):
        StragglerExecution(SHAPE, **{"num_loads": 2, "num_devices": 4} | settings)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"prefill_s": 0.0}, "prefill_s"),
        ({"prefill_s": 1.0, "sensitivity": -1.0}, "sensitivity"),
        ({"prefill_s": 1.0, "num_layers": 0}, "num_layers"),
        ({"prefill_s": float("nan")}, "prefill_s"),
    ],
)
def test_cv_settings_that_cannot_be_are_refused(settings, field):
    with pytest.raises(ConfigError, match=field):
        CvExecution(**settings)


@pytest.mark.parametrize(
    "settings", [{"pair_s": -1.0}, {"layer_s_fixed": 0.0, "expert_s": 0.0, "pair_s": 0.0}]
)
def test_formulas_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match="pair_s"):
        FormulaCosts(**settings)
