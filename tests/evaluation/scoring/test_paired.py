"""Statistics of paired scores: by hand, against exact fractions, and their properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ShapeError
from evenmoe.evaluation.scoring.paired import Estimate, mean_of_items, mean_of_tasks, paired_difference
from tests.oracles.paired import slow_difference

SCORES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=40)
PAIRS = st.integers(1, 40).flatmap(
    lambda num: st.tuples(*[st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=num, max_size=num)] * 2)
)


def test_a_mean_worked_by_hand():
    # mean 3/4; squared deviations 1/16 * 3 + 9/16 = 3/4; variance 3/4 / 3 = 1/4; of the mean 1/16
    assert mean_of_items([1, 1, 1, 0]) == Estimate(value=0.75, stderr=0.25)


def test_a_paired_difference_worked_by_hand():
    # differences 0, -1, 0, 0, +1, -1, -1, 0: mean -1/4; squares 4 - 8/16 = 7/2; / 7 = 1/2; / 8 = 1/16
    paired = paired_difference([1, 0, 1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 1, 1, 1])
    assert paired.difference == Estimate(value=-0.25, stderr=0.25)
    assert (paired.num_better, paired.num_worse) == (1, 3)


def test_a_mean_over_tasks_worked_by_hand():
    # sqrt(0.03^2 + 0.04^2) / 2 = 0.025
    tasks = [Estimate(value=0.5, stderr=0.03), Estimate(value=0.7, stderr=0.04)]
    assert mean_of_tasks(tasks).value == pytest.approx(0.6)
    assert mean_of_tasks(tasks).stderr == pytest.approx(0.025)


@given(PAIRS)
def test_differences_are_those_of_exact_fractions(pair):
    scores, base = pair
    paired = paired_difference(scores, base)
    mean, variance, better, worse = slow_difference(scores, base)
    assert paired.difference.value == pytest.approx(float(mean), abs=1e-12)
    assert (paired.num_better, paired.num_worse) == (better, worse)
    if variance is None:
        assert paired.difference.stderr is None
    else:
        assert paired.difference.stderr == pytest.approx(math.sqrt(variance), abs=1e-12)


@given(SCORES)
def test_a_policy_beside_itself_differs_by_nothing(scores):
    paired = paired_difference(scores, scores)
    assert paired.difference.value == 0
    assert paired.difference.stderr in (None, 0)
    assert paired.num_better == paired.num_worse == 0


@given(PAIRS)
def test_the_other_way_round_only_the_sign_changes(pair):
    ours, theirs = paired_difference(*pair), paired_difference(*reversed(pair))
    assert ours.difference.value == pytest.approx(-theirs.difference.value, abs=1e-15)
    assert ours.difference.stderr == pytest.approx(theirs.difference.stderr, abs=1e-15)
    assert (ours.num_better, ours.num_worse) == (theirs.num_worse, theirs.num_better)


@given(PAIRS)
def test_a_difference_of_means_is_the_mean_of_differences(pair):
    scores, base = pair
    change = mean_of_items(scores).value - mean_of_items(base).value
    assert paired_difference(scores, base).difference.value == pytest.approx(change, abs=1e-12)


def test_one_item_or_task_without_a_standard_error_leaves_none():
    assert mean_of_items([1.0]).stderr is None
    assert mean_of_tasks([Estimate(value=1, stderr=0.1), Estimate(value=0, stderr=None)]).stderr is None


@pytest.mark.parametrize(
    "call", [lambda: mean_of_items([]), lambda: mean_of_tasks([]), lambda: paired_difference([1], [1, 0])]
)
def test_what_has_no_pairs_is_refused(call):
    with pytest.raises(ShapeError):
        call()
