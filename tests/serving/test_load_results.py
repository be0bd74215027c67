"""The figures of a run, by hand, and that a lost or doubled answer does not go unseen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.serving.load import Record, summarise
from evenmoe.serving.load.results import Percentiles


def record(index, planned_s=0.0, sent_s=0.0, ended_s=1.0, outcome="finished", **more):
    return Record(
        index=index, id=f"r-{index}", topic="t", planned_s=planned_s, sent_s=sent_s, ended_s=ended_s,
        outcome=outcome, **more,
    )  # fmt: skip


def test_figures_by_hand():
    records = [
        record(0, 0.0, 0.0, 2.0, first_s=1.0, last_s=2.0, num_tokens=3, num_prompt_tokens=4),
        record(1, 1.0, 1.5, 4.0, first_s=2.0, last_s=4.0, num_tokens=2, num_prompt_tokens=6),
        record(2, 3.0, 3.0, 3.5, "refused", error="no", status=400),
    ]
    result = summarise(records, seconds=5.0)
    assert result.offered_per_s == pytest.approx(2 / 3)
    assert result.finished_per_s == pytest.approx(0.4)
    assert result.tokens_per_s == pytest.approx(1.0)
    assert (result.prompt_tokens, result.output_tokens) == (10, 5)
    assert (result.latency.count, result.latency.mean, result.latency.worst) == (2, 2.5, 3.0)
    assert result.ttft.p50 == pytest.approx(1.0)
    assert result.tpot.mean == pytest.approx((0.5 + 2.0) / 2)
    assert result.late.worst == pytest.approx(0.5)
    assert result.num_late == 1
    assert result.most_in_flight == 2
    assert result.outcomes == {"finished": 2, "refused": 1}
    assert result.errors == {"no": 1}
    assert (result.lost, result.doubled, result.strayed) == (0, 0, None)


@pytest.mark.parametrize(
    ("outcome", "status", "is_lost"),
    [
        ("finished", 200, False),
        ("refused", 400, False),
        ("failed", 500, False),
        ("failed", 200, False),  # the stream told an error
        ("failed", None, True),  # no connection
        ("cut", 200, True),
        ("timeout", None, True),
        ("timeout", 200, True),
        ("interrupted", None, False),  # by the client itself
    ],
)
def test_a_request_is_lost_if_the_server_never_said_what_became_of_it(outcome, status, is_lost):
    assert summarise([record(0, outcome=outcome, status=status), record(1)], 1.0).lost == is_lost


@pytest.mark.parametrize(
    ("answers", "doubled", "strayed"),
    [
        ([("cmpl-r-0",), ("cmpl-r-1",)], 0, 0),
        ([("x",), ("y",)], 0, None),  # a server that makes ids of its own
        ([("x",), ("x",)], 2, None),
        ([("x", "y"), ("z",)], 1, None),
        ([("cmpl-r-0",), ("cmpl-r-0",)], 2, 1),
        ([("cmpl-r-1",), ("cmpl-r-0",), ("cmpl-r-2",)], 0, 2),  # swapped
        ([(), ()], 0, None),
    ],
)
def test_answers_are_told_apart_by_their_ids(answers, doubled, strayed):
    result = summarise([record(i, answer_ids=ids) for i, ids in enumerate(answers)], 1.0)
    assert (result.doubled, result.strayed) == (doubled, strayed)


def test_two_ends_in_one_stream_are_two_answers():
    assert summarise([record(0, num_answers=2), record(1, num_answers=1)], 1.0).doubled == 1


def test_all_at_once_has_no_rate_and_nothing_finished_no_latency():
    result = summarise([record(0, outcome="failed", error="x")], seconds=1.0)
    assert result.offered_per_s is None
    assert result.latency is None


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=40))
def test_percentiles_are_in_order(values):
    found = Percentiles.of(values)
    assert min(values) <= found.p50 <= found.p90 <= found.p99 <= found.worst == max(values)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=15))
def test_most_in_flight_is_what_counting_at_every_start_gives(spans):
    records = [record(i, a, a, a + b) for i, (a, b) in enumerate(spans)]
    slow = max(sum(r.sent_s <= at.sent_s and r.ended_s >= at.sent_s for r in records) for at in records)
    assert summarise(records, 1.0).most_in_flight == slow
