"""How a prediction is scored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors import History, cosine, measure_accuracy, top_overlap
from tests.oracles import predictors as oracle

LOADS = st.lists(st.integers(0, 4), min_size=4, max_size=4)


def test_scores_worked_by_hand():
    assert cosine([3, 4], [4, 3]) == pytest.approx(24 / 25)
    assert cosine([[1, 0], [0, 0], [0, 0]], [[0, 2], [0, 0], [1, 0]]).tolist() == [0.0, 1.0, 0.0]
    assert top_overlap([5, 4, 1, 0], [5, 1, 4, 0], 2) == 0.5
    assert top_overlap([1, 1, 1, 1], [0, 1, 1, 0], 2) == 0.5  # ties: experts 0 and 1


@given(one=LOADS, other=LOADS, num_top=st.integers(1, 4))
def test_scores_are_the_oracles(one, other, num_top):
    assert cosine(one, other) == pytest.approx(oracle.cosine(one, other))
    assert top_overlap(one, other, num_top) == oracle.top_overlap(one, other, num_top)
    assert 0 <= top_overlap(one, other, num_top) <= 1
    assert cosine(one, one) == pytest.approx(1.0)


def test_a_predictor_is_scored_by_layer_and_topic():
    history = History(2, 2, 1)
    true_NLE = np.array([[[3, 0], [0, 3]], [[2, 2], [4, 0]]])
    score = measure_accuracy("even", history, [[1, 2, 3], [1, 2, 3, 4]], true_NLE, ["a", "b"], num_top=1)
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(score.cosine_L, [(half + 1) / 2, half])
    np.testing.assert_allclose(score.overlap_L, [1.0, 0.5])
    assert score.cosine_by_topic == pytest.approx({"a": half, "b": (1 + half) / 2})
    assert score.ms > 0
    body = score.as_dict()
    assert body["predictor"] == "even"
    assert body["cosine"] == pytest.approx(score.cosine_L.mean())


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ShapeError):
        cosine([1, 2], [1, 2, 3])
    with pytest.raises(ConfigError):
        top_overlap([1, 2], [1, 2], 3)
    with pytest.raises(ShapeError):
        measure_accuracy("", History(1, 2, 1), [[1]], np.ones((2, 1, 2)), ["a"], num_top=1)
    with pytest.raises(ShapeError):
        measure_accuracy("", History(1, 2, 1), [], np.ones((0, 1, 2)), [], num_top=1)
