"""How requests become batches: lm-eval's own order, said by a slow oracle, and what the fingerprint tells apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.utils import Collator

from evenmoe.errors import ConfigError
from evenmoe.evaluation.lm_eval.batching import Asked, cut, order_fingerprint, plan_rows
from tests.oracles.evaluation import planned_batches

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
REQUESTS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12)


def asked(requests):
    return [Asked(context=context, continuation=continuation) for context, continuation in requests]


def planned(requests, batch_size, max_length, share):
    return cut(plan_rows(asked(requests), max_length=max_length, share=share), batch_size)


@given(requests=REQUESTS, batch_size=st.integers(1, 5), max_length=st.integers(4, 8), share=st.booleans())
def test_rows_and_batches_are_those_of_the_oracle(requests, batch_size, max_length, share):
    batches = planned(requests, batch_size, max_length, share)
    found = [[(row.input_ids, row.requests) for row in batch] for batch in batches]
    assert found == planned_batches(requests, batch_size, max_length, share)


@given(requests=REQUESTS, batch_size=st.integers(1, 5))
def test_the_order_is_that_of_the_installed_lm_eval(requests, batch_size):
    collator = Collator(
        [(None, list(context), list(continuation)) for context, continuation in requests],
        sort_fn=lambda request: (-len(request[1] + request[2]), tuple(request[1] + request[2])),
        group_by="contexts",
        group_fn=lambda request: request[1] + request[2][:-1],
    )
    theirs = [
        [tuple((context + continuation)[:-1]) for _, context, continuation in chunk]
        for chunk in collator.get_batched(n=batch_size)
    ]
    ours = [[row.input_ids for row in batch] for batch in planned(requests, batch_size, 100, True)]
    assert ours == theirs


@given(requests=REQUESTS, share=st.booleans())
def test_every_request_is_answered_once_at_the_end_of_a_row_that_holds_it(requests, share):
    rows = plan_rows(asked(requests), max_length=8, share=share)
    answered = [request for row in rows for request in row.requests]
    assert sorted(answered) == list(range(len(requests)))
    for row in rows:
        for request, continuation in zip(row.requests, row.continuations, strict=True):
            context, expected = requests[request]
            assert continuation == expected
            assert row.input_ids == (context + expected)[:-1]
            assert row.num_scored >= len(continuation)


@given(requests=REQUESTS, order=st.randoms(use_true_random=False))
def test_with_sharing_the_rows_do_not_depend_on_the_order_of_the_requests(requests, order):
    shuffled = list(requests)
    order.shuffle(shuffled)
    first = [row.input_ids for row in plan_rows(asked(requests), max_length=8, share=True)]
    assert first == [row.input_ids for row in plan_rows(asked(shuffled), max_length=8, share=True)]


def test_four_letters_after_one_question_are_one_row():
    requests = [((5, 6, 7), (letter,)) for letter in (1, 2, 3, 4)]
    (row,) = plan_rows(asked(requests), max_length=8, share=True)
    assert row.requests == (0, 1, 2, 3)
    assert row.input_ids == (5, 6, 7)
    assert len(plan_rows(asked(requests), max_length=8, share=False)) == 4


@pytest.mark.parametrize(
    ("context", "continuation", "field"),
    [
        ((), (1,), "context"),
        ((1,), (), "tokens of a continuation"),
        ((1,), (2,) * 9, "tokens of a continuation"),
    ],
)
def test_requests_that_cannot_be_scored_are_refused(context, continuation, field):
    with pytest.raises(ConfigError, match=field):
        plan_rows([Asked(context=context, continuation=continuation)], max_length=8, share=True)


def test_the_fingerprint_tells_batches_orders_and_rows_apart():
    one = order_fingerprint([[[1, 2], [3]], [[4]]])
    assert one == order_fingerprint([[(1, 2), (3,)], [(4,)]])
    others = ([[[1, 2]], [[3], [4]]], [[[3], [1, 2]], [[4]]], [[[1, 2], [3]], [[5]]], [[[1], [2, 3]], [[4]]])
    assert one not in {order_fingerprint(other) for other in others}
