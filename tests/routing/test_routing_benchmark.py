"""The benchmark's rows; what it measures is not a matter for tests."""

from __future__ import annotations

import pytest
import torch

from evenmoe.errors import ConfigError
from evenmoe.routing import POLICIES
from evenmoe.routing.benchmark import PLAIN_TOP_K, bench_routing, skewed_scores


def test_rows() -> None:
    rows = bench_routing(tokens=(64, 128), experts=16, top_k=2, devices=4, repeats=2)
    names = [row.name for row in rows if row.tokens == 64]
    assert names == [row.name for row in rows if row.tokens == 128]
    assert names[0] == PLAIN_TOP_K
    assert rows[0].ratio_to_top_k == 1.0
    assert {name.split()[0] for name in names[1:]} == set(POLICIES) - {"baseline"}
    for row in rows:
        assert 0 < row.best_ms <= row.median_ms
        assert row.ratio_to_top_k > 0


def test_scores_are_skewed_and_reproducible() -> None:
    scores = skewed_scores(4096, 64, seed=0)
    assert scores.equal(skewed_scores(4096, 64, seed=0))
    assert not scores.equal(skewed_scores(4096, 64, seed=1))
    load = torch.zeros(4096, 64).scatter_(1, scores.topk(8)[1], 1.0).sum(0)
    assert 5 < float(load.max() / load.mean()) < 9


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="top_k = 9 is not allowed: at most the 8 experts"):
        bench_routing(tokens=(16,), experts=8, top_k=9)
    with pytest.raises(ConfigError, match="repeats = 0 is not allowed"):
        bench_routing(repeats=0)
