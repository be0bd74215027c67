"""Pairs reach the ranks that hold their experts, nothing else is sent; the outputs come back weighted and summed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.models.packing import Pairs
from evenmoe.models.stopwatch import NO_STOPWATCH
from evenmoe.parallel.exchange import Exchange, SharedBatch, Slots, Workspace, plan, weighted_sum
from evenmoe.parallel.expert_parallel import ExpertParallel
from evenmoe.placement import Placement
from tests.oracles import exchange as oracle
from tests.parallel.thread_ranks import run_ranks

HIDDEN = 3


@st.composite
def worlds(draw):
    """Experts on 1 to 4 ranks, some in copies and some ranks empty, and pairs of each rank's tokens."""
    num_ranks, num_experts = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    ranks = st.sets(st.integers(0, num_ranks - 1), min_size=1)
    holders = [sorted(draw(ranks)) for _ in range(num_experts)]
    holds = [[rank in where for where in holders] for rank in range(num_ranks)]
    tokens, pairs, devices = [], [], []
    for rank in range(num_ranks):
        num_tokens = draw(st.integers(0, 5))
        tokens.append([[float(rank + 1), float(token), 1.0] for token in range(num_tokens)])
        possible = [(token, expert) for token in range(num_tokens) for expert in range(num_experts)]
        chosen = sorted(draw(st.sets(st.sampled_from(possible)))) if possible else []
        pairs.append([(token, expert, draw(st.sampled_from([0.25, 0.5, 2.0]))) for token, expert in chosen])
        devices.append([draw(st.sampled_from(holders[expert])) for _, expert in chosen])
    return holds, tokens, pairs, devices


def experts_of(num_experts):
    return [lambda vector, e=e: [value * (e + 1) + e for value in vector] for e in range(num_experts)]


def as_pairs(pairs):
    token, expert, weight = zip(*pairs, strict=True) if pairs else ((), (), ())
    return Pairs(
        torch.tensor(token, dtype=torch.long), torch.tensor(expert, dtype=torch.long), torch.tensor(weight)
    )


def run_experts(call, own):
    """What local experts, given by their global numbers, make of the rows they are called with."""
    rows, expert_R1, weight_R1 = call
    number_R1 = torch.tensor(own or [0])[expert_R1]
    return (rows * (number_R1 + 1) + number_R1) * weight_R1


@given(worlds())
def test_slots_and_plan_are_those_of_the_oracle(world):
    holds, _, pairs, devices = world
    numbered, num_local = oracle.slots(holds)
    slots = Slots.of(torch.tensor(holds))
    assert list(slots.num_local_D) == num_local
    for rank, row in enumerate(slots.slot_DE.tolist()):
        assert row == [numbered.get((rank, expert), -1) for expert in range(len(row))]
    for own, device in zip(pairs, devices, strict=True):
        listed = as_pairs(own)
        slot_P = slots.of_pairs(listed.expert_P, torch.tensor(device, dtype=torch.long))
        planned = plan(slot_P, sum(num_local))
        where = list(zip(device, listed.expert_P.tolist(), strict=True))
        assert planned.order_P.tolist() == oracle.sending_order(where)
        assert planned.count_S.tolist() == [where.count(place) for place in numbered]


def test_plan_of_many_slots():
    slot_P = torch.tensor([40_000, 3, 40_000, 0])
    planned = plan(slot_P, 40_001)
    assert planned.order_P.tolist() == [3, 1, 0, 2]
    assert planned.count_S[[0, 3, 40_000]].tolist() == [1, 1, 2]


@given(worlds())
def test_own_rows_come_back_from_all_experts(world):
    holds, tokens, pairs, devices = world
    expected, ran = oracle.expert_layer(tokens, pairs, devices, experts_of(len(holds[0])))
    slots = Slots.of(torch.tensor(holds))

    def worker(group):
        rank = group.rank
        hidden = torch.tensor(tokens[rank]).view(-1, HIDDEN)
        device_P = torch.tensor(devices[rank], dtype=torch.long)
        exchange = Exchange(group)
        for _ in range(2):  # the second time in the buffers of the first
            shipment = exchange.deliver(hidden, as_pairs(pairs[rank]), device_P, slots, NO_STOPWATCH)
            call = [tensor.clone() for tensor in shipment.call]
            own = [expert for expert, held in enumerate(holds[rank]) if held]
            output = shipment.collect(run_experts(call, own))
        return call, own, output, group.calls

    for rank, (call, own, output, calls) in enumerate(run_ranks(len(holds), worker)):
        torch.testing.assert_close(output, torch.tensor(expected[rank]).view(-1, HIDDEN))
        sent = [shape[0] for name, shape in calls if name == "all_to_all" and len(shape) == 2]
        assert sent == [len(pairs[rank]), len(ran[rank])] * 2  # there and back, kept pairs alone
        rows, expert_R1, weight_R1 = call
        if not ran[rank]:
            assert (rows.tolist(), expert_R1.tolist(), weight_R1.tolist()) == (
                [[0.0] * HIDDEN],
                [[0]],
                [[0.0]],
            )
            continue
        assert weight_R1.unique().tolist() == [1.0]
        received = sorted((*row, own[e]) for row, [e] in zip(rows.tolist(), expert_R1.tolist(), strict=True))
        assert received == sorted((*tokens[source][token], expert) for source, token, expert in ran[rank])


@given(worlds())
def test_a_shared_batch_is_summed_over_the_ranks(world):
    holds, tokens, pairs, devices = world
    expected, _ = oracle.expert_layer(tokens, pairs, devices, experts_of(len(holds[0])))
    slots, hidden = Slots.of(torch.tensor(holds)), torch.tensor(tokens[0]).view(1, -1, HIDDEN)
    device_P = torch.tensor(devices[0], dtype=torch.long)

    def worker(group):
        shipment = SharedBatch(group, hidden, as_pairs(pairs[0]), device_P, slots, NO_STOPWATCH)
        own = [expert for expert, held in enumerate(holds[group.rank]) if held]
        given_rows = int((shipment.call[2] != 0).sum())
        return given_rows, shipment.collect(run_experts(shipment.call, own)), group.calls

    results = run_ranks(len(holds), worker)
    for rank, (given_rows, output, calls) in enumerate(results):
        torch.testing.assert_close(output, torch.tensor(expected[0]).view(1, -1, HIDDEN))
        assert torch.equal(output, results[0][1])
        assert given_rows == devices[0].count(rank)
        assert [name for name, _ in calls] == ["all_reduce"]


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype, weight_dtype):
    count = 4500 if dtype == torch.float16 else 600  # counting in the dtype itself stops at 2048 or 256
    pairs = Pairs(
        torch.ones(count, dtype=torch.long),
        torch.zeros(count, dtype=torch.long),
        torch.full((count,), 0.5, dtype=weight_dtype),
    )
    total_TH = weighted_sum(torch.ones(count, 2, dtype=dtype), pairs, torch.arange(count), 3)
    assert total_TH.dtype == dtype
    assert total_TH.tolist() == [[0.0, 0.0], [count / 2] * 2, [0.0, 0.0]]


def test_shared_halves_are_summed_in_float32():
    slots, num_ranks = Slots.of(torch.eye(4, dtype=torch.bool)), 4
    pairs = Pairs(torch.zeros(4, dtype=torch.long), torch.arange(4), torch.ones(4, dtype=torch.bfloat16))

    def worker(group):
        hidden = torch.ones(1, 1, dtype=torch.bfloat16)
        shipment = SharedBatch(group, hidden, pairs, torch.arange(4), slots, NO_STOPWATCH)
        value = 256.0 if group.rank == 0 else 1.0  # in bfloat16, 256 + 1 is 256
        return shipment.collect(torch.full((1, 1), value, dtype=torch.bfloat16))

    assert [float(total) for total in run_ranks(num_ranks, worker)] == [260.0] * 4  # 259, rounded once


def test_a_buffer_serves_inference_mode_and_ordinary_calls():
    workspace = Workspace()
    with torch.inference_mode():
        first = workspace.rows("rows", 4, torch.zeros(1, 2))
        torch.index_select(torch.ones(4, 2), 0, torch.arange(4), out=first)
    second = workspace.rows("rows", 3, torch.zeros(1, 2))
    torch.index_select(torch.zeros(4, 2), 0, torch.arange(3), out=second)
    assert second.data_ptr() == first.data_ptr()
    assert workspace.rows("other", 3, torch.zeros(1, 2)).data_ptr() != first.data_ptr()
    assert workspace.rows("rows", 3, torch.zeros(1, 2).half()).dtype == torch.half


class Marks:
    """A stopwatch that lists what it hears."""

    def __init__(self, separates_waiting):
        self.separates_waiting, self.heard = separates_waiting, []

    def mark(self, phase):
        self.heard.append(phase)


class Experts:
    expected = False


@pytest.mark.parametrize("separates", [True, False])
@pytest.mark.parametrize("form", ["data", "shared"])
def test_phases_are_marked_in_order(form, separates):
    pairs = as_pairs([(0, 0, 1.0), (0, 1, 1.0)])

    def worker(group):
        parallel = ExpertParallel(group, Placement.of([0, 1], 2), form, [2], [Experts()])
        stopwatch = Marks(separates)
        shipment = parallel.deliver(0, torch.ones(1, HIDDEN), pairs, torch.tensor([0, 1]), stopwatch)
        before = list(stopwatch.heard)
        shipment.collect(shipment.call[0])
        return before, stopwatch.heard[len(before) :], [name for name, _ in group.calls].count("barrier")

    wait = ["wait"] if separates else []
    expected = {
        "data": (["permute", *wait, "dispatch"], [*wait, "combine", "permute"], 2 * len(wait)),
        "shared": (["permute"], ["permute", *wait, "combine"], len(wait)),
    }
    assert run_ranks(2, worker) == [expected[form]] * 2


def test_gradients_are_refused():
    def worker(group):
        parallel = ExpertParallel(group, Placement.of([0, 0], 1), "data", [2], [Experts()])
        hidden, pairs = torch.ones(1, HIDDEN, requires_grad=True), as_pairs([(0, 0, 1.0)])
        with pytest.raises(ConfigError, match="no_grad"):
            parallel.deliver(0, hidden, pairs, torch.zeros(1, dtype=torch.long), NO_STOPWATCH)
        with torch.no_grad():
            shipment = parallel.deliver(0, hidden, pairs, torch.zeros(1, dtype=torch.long), NO_STOPWATCH)
        return shipment.call[0].requires_grad

    assert run_ranks(1, worker) == [False]
