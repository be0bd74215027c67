"""Pairs as slots, and slots as the pairs of a rank: nothing is lost or made up on the way."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.models.packing import Pairs
from evenmoe.serving.vllm.compaction import EMPTY, own_experts, slots_of

NUM_EXPERTS = 6
KEPT = st.lists(st.lists(st.booleans(), min_size=NUM_EXPERTS, max_size=NUM_EXPERTS), min_size=0, max_size=9)


def pairs_of(kept):
    kept_TE = torch.tensor(kept, dtype=torch.bool).view(-1, NUM_EXPERTS)
    token_P, expert_P = kept_TE.nonzero(as_tuple=True)
    return Pairs(token_P, expert_P, torch.arange(1, len(token_P) + 1) / 10)


@given(KEPT, st.integers(1, 4))
def test_slots_hold_each_pair_once_with_its_weight(kept, least):
    pairs = pairs_of(kept)
    weight_TS, expert_TS = slots_of(pairs, len(kept), least)
    assert weight_TS.shape == expert_TS.shape == (len(kept), max([least, *map(sum, kept)]))
    full = expert_TS != EMPTY
    assert torch.equal(full.nonzero()[:, 0], pairs.token_P)
    assert torch.equal(expert_TS[full], pairs.expert_P)
    assert torch.equal(weight_TS[full], pairs.weight_P)
    assert not weight_TS[~full].any()


@given(KEPT, st.integers(1, 4))
def test_the_ranks_own_every_pair_once(kept, num_ranks):
    _, expert_TS = slots_of(pairs_of(kept), len(kept), 1)
    expert_TS = expert_TS.int()
    holders = torch.zeros_like(expert_TS)
    for rank in range(num_ranks):
        own = [expert for expert in range(NUM_EXPERTS) if expert % num_ranks == rank]
        local_E = torch.full((NUM_EXPERTS,), EMPTY, dtype=torch.int32)
        local_E[own] = torch.arange(len(own), dtype=torch.int32)
        local_TS = own_experts(expert_TS, local_E)
        assert local_TS.dtype == expert_TS.dtype
        here = local_TS != EMPTY
        assert [own[index] for index in local_TS[here].tolist()] == expert_TS[here].tolist()
        holders += here
    assert torch.equal(holders, (expert_TS != EMPTY).int())
