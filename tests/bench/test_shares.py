"""Shares: from a loads file, made as skewed as asked, or carried over to another number of experts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.bench.shares import (
    Shares,
    feasible,
    resampled,
    shares_of_loads,
    shuffled,
    synthetic_shares,
    with_skew,
)
from evenmoe.errors import ConfigError
from evenmoe.loads import read_loads


@pytest.fixture
def loads(tmp_path):
    path = tmp_path / "loads.json"
    path.write_text(
        '{"model": "m", "layers": ["model.layers.0.mlp", "model.layers.7.mlp"], "num_experts": 4, "top_k": 2,'
        ' "domains": {"code": [[4, 4, 4, 4], [8, 4, 4, 0]], "chat": [[1, 3, 2, 2], [0, 4, 2, 2]]}}'
    )
    return read_loads(path)


def test_a_layer_and_a_tag_are_found_by_name_or_number(loads):
    assert shares_of_loads(loads, layer="7", tag="code").share_E.tolist() == [0.5, 0.25, 0.25, 0.0]
    assert shares_of_loads(loads, layer="model.layers.7.mlp", tag="code").share_E.tolist() == [
        0.5,
        0.25,
        0.25,
        0.0,
    ]
    assert shares_of_loads(loads, layer="7").share_E.tolist() == [8 / 24, 8 / 24, 6 / 24, 2 / 24]
    assert "layer model.layers.7.mlp, code" in shares_of_loads(loads, layer="7", tag="code").source


@pytest.mark.parametrize(("layer", "tag", "message"), [("3", None, "layers.7"), ("7", "poems", "code, chat")])
def test_an_unknown_layer_or_tag_is_refused_with_those_there_are(loads, layer, tag, message):
    with pytest.raises(ConfigError, match=message):
        shares_of_loads(loads, layer=layer, tag=tag)


@given(st.integers(2, 64), st.integers(1, 8), st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_the_busiest_expert_gets_the_skew_that_was_asked_for(num_experts, top_k, part):
    top_k = min(top_k, num_experts)
    skew = 1.0 + part * (num_experts / top_k - 1.0)
    shares = synthetic_shares(num_experts, top_k, skew)
    assert shares.skew == pytest.approx(skew, rel=1e-6)
    assert shares.share_E.sum() == pytest.approx(1.0)
    assert shares.share_E.max() <= (1 + 1e-9) / top_k
    assert (np.diff(shares.share_E) <= 1e-12).all()


def test_a_skew_of_one_is_even_whatever_the_file_says():
    shares = Shares(share_E=np.array([0.4, 0.3, 0.2, 0.1]), source="test")
    assert with_skew(shares, 2, 1.0).share_E == pytest.approx([0.25] * 4)
    assert with_skew(shares, 2, 1.6).share_E == pytest.approx(shares.share_E)


@pytest.mark.parametrize("skew", [0.5, 2.5, float("nan"), float("inf")])
def test_a_skew_that_no_top_k_can_have_is_refused(skew):
    with pytest.raises(ConfigError, match="from 1 to 2"):
        synthetic_shares(8, 4, skew)


def test_resampling_keeps_the_profile_and_says_so():
    shares = synthetic_shares(64, 8, 4.0)
    fewer = resampled(shares, 60, seed=0)
    assert fewer.share_E.shape == (60,)
    assert fewer.share_E.sum() == pytest.approx(1.0)
    assert fewer.skew == pytest.approx(4.0, rel=0.1)
    assert "from 64 to 60" in fewer.source
    assert resampled(shares, 64, seed=0) is shares


def test_a_share_over_one_in_k_is_cut_and_the_rest_spread_in_proportion():
    cut = feasible(Shares(share_E=np.array([0.8, 0.1, 0.06, 0.04]), source="test"), 2)
    assert cut.share_E == pytest.approx([0.5, 0.25, 0.15, 0.1])
    assert "1 expert(s) cut" in cut.source
    only = feasible(Shares(share_E=np.array([1.0, 0.0, 0.0]), source="test"), 2)
    assert only.share_E == pytest.approx([0.5, 0.25, 0.25])


def test_shuffling_is_seeded_and_keeps_the_shares():
    shares = synthetic_shares(16, 2, 3.0)
    assert sorted(shuffled(shares, 1).share_E) == pytest.approx(sorted(shares.share_E))
    assert shuffled(shares, 1).share_E.tolist() == shuffled(shares, 1).share_E.tolist()
    assert shuffled(shares, 1).share_E.tolist() != shuffled(shares, 2).share_E.tolist()
