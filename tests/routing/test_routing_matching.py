"""The matching rounds against plain greedy, and the selection's histogram against sorting."""

from __future__ import annotations

import pytest
import torch

from evenmoe.routing import matching
from evenmoe.routing.priority import Priority
from evenmoe.routing.selection import best_of_bins


def greedy(token, bin, order, room, quota) -> list[int]:
    room, quota, taken = list(room), list(quota), []
    for pair in sorted(range(len(token)), key=lambda pair: (order[pair], pair)):
        if room[bin[pair]] > 0 and quota[token[pair]] > 0:
            room[bin[pair]] -= 1
            quota[token[pair]] -= 1
            taken.append(pair)
    return sorted(taken)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_bins", [2, 40])
def test_matching_is_greedy(seed: int, num_bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(50, num_bins, generator=generator) < 0.5
    token, bin = wanted.nonzero().unbind(1)
    # Half of the priorities tie. With few bins per token, tokens refuse little; with 40, most offers.
    order = torch.randint(0, len(token) // 2, (len(token),), generator=generator)
    room = torch.randint(0, 12, (num_bins,), generator=generator)
    quota = torch.randint(1, 4, (50,), generator=generator)
    taken = matching.matched(token, bin, Priority(order, 20), room, quota)
    assert sorted(taken.tolist()) == greedy(*(value.tolist() for value in (token, bin, order, room, quota)))


def test_matching_ranks_the_whole_list_when_bins_are_refused_often(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    rounds = matching._rounds
    monkeypatch.setattr(
        matching, "_rounds", lambda *given: calls.append(len(given[0].pair_P)) or rounds(*given)
    )
    # All bins want the same 40 tokens first, each of which takes one.
    token = torch.arange(400).repeat_interleave(8)
    bin = torch.arange(8).repeat(400)
    order = token * 8 + bin
    room, quota = torch.full((8,), 40), torch.ones(400, dtype=torch.long)
    taken = matching.matched(token, bin, Priority(order, 20), room, quota)
    assert sorted(taken.tolist()) == greedy(*(value.tolist() for value in (token, bin, order, room, quota)))
    # First the best 40 + 40 // 4 + 8 of each bin: bin 0 gets tokens 0 to 39, bin 1 the other 18. The former refuse 7
    # bins, the latter the 6 after bin 1. Then everything else.
    assert calls == [8 * 58, 3200 - 40 * 7 - 18 * 6]


@pytest.mark.parametrize("bits", [1, 3, 12, 33])
@pytest.mark.parametrize("num_pairs", [0, 1, 7, 3000])
def test_selection_keeps_the_best_of_each_bin(bits: int, num_pairs: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    bin = torch.randint(0, 5, (num_pairs,), generator=generator)
    order = torch.randint(0, 2**bits, (num_pairs,), generator=generator)
    limit = torch.tensor([0, 1, 300, 599, 10_000])
    kept = best_of_bins(bin, Priority(order, bits), limit)
    for b in range(5):
        pairs = sorted(
            (pair for pair in range(num_pairs) if bin[pair] == b), key=lambda pair: (int(order[pair]), pair)
        )
        assert {pair for pair in pairs if kept[pair]} == set(pairs[: int(limit[b])])
