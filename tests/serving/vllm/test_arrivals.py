"""New requests are told from lengths alone, and never more of them than there are."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.serving.vllm.arrivals import Arrivals, Limits
from evenmoe.serving.vllm.steps import step_of
from tests.serving.vllm.engines import Request, Scheduler, metadata


def run(scheduler, requests, limits, most_steps=2000):
    """Feed requests in while the scheduler runs; yield the requests that began so far, and how many were counted."""
    arrivals, counted, pending = Arrivals(), 0, list(requests)
    for _ in range(most_steps):
        while pending and scheduler.rng.random() < 0.5:
            scheduler.waiting.append(pending.pop(0))
        if not (pending or scheduler.waiting or scheduler.running):
            return
        rows = scheduler.step()
        if not rows:
            continue
        step = step_of(metadata([row[0] for row in rows], [row[1] for row in rows]), sum(r[1] for r in rows))
        counted += arrivals.of_step(step, limits)
        yield len(scheduler.started), counted


@settings(max_examples=120, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_no_request_is_counted_twice(data, seed):
    block_size, max_length = data.draw(st.sampled_from([1, 4, 16])), 40
    rng = random.Random(seed)
    scheduler = Scheduler(
        max_tokens=data.draw(st.integers(1, 30)),
        max_requests=data.draw(st.integers(1, 6)),
        num_blocks=data.draw(st.integers(max_length // block_size + 3, 4 * (max_length // block_size) + 5)),
        block_size=block_size,
        rng=rng,
    )
    known = data.draw(st.booleans())
    limits = Limits(
        max_tokens=scheduler.max_tokens,
        max_requests=scheduler.max_requests,
        max_length=max_length,
        block_size=block_size,
        num_blocks=scheduler.num_blocks if known else None,
    )
    requests = [
        Request(number, rng.randint(1, 25), rng.randint(1, 15), cached_prefix=rng.choice([0, 0, 8, 16]))
        for number in range(rng.randint(1, 25))
    ]
    for began, counted in run(scheduler, requests, limits):
        assert counted <= began


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_with_room_for_all_every_request_is_counted_when_it_begins(seed):
    rng = random.Random(seed)
    scheduler = Scheduler(max_tokens=500, max_requests=12, num_blocks=200, block_size=16, rng=rng)
    limits = Limits(max_tokens=500, max_requests=12, max_length=60, block_size=16, num_blocks=200)
    requests = [Request(n, rng.randint(1, 30), rng.randint(1, 30)) for n in range(rng.randint(1, 30))]
    for began, counted in run(scheduler, requests, limits):
        assert counted == began


def test_a_preempted_request_is_not_counted_again():
    limits = Limits(max_tokens=100, max_requests=4, max_length=64, block_size=4, num_blocks=9)
    arrivals = Arrivals()

    def step(*rows):
        return arrivals.of_step(step_of(metadata(*map(list, zip(*rows, strict=True))), 99), limits)

    assert step((0, 12), (0, 16)) == 2
    assert step((12, 1), (16, 1)) == 0
    assert step((13, 1)) == 0  # the second lost its blocks
    assert step((14, 1), (0, 18)) == 0  # and runs again, from its beginning
    assert step((15, 1), (18, 1), (0, 3)) == 1


def test_requests_are_counted_on_while_the_cache_is_full():
    rng = random.Random(0)
    scheduler = Scheduler(max_tokens=200, max_requests=8, num_blocks=12, block_size=4, rng=rng)
    limits = Limits(max_tokens=200, max_requests=8, max_length=40, block_size=4, num_blocks=12)
    requests = [Request(n, rng.randint(5, 20), rng.randint(5, 20)) for n in range(200)]
    began, counted = list(run(scheduler, requests, limits, most_steps=10_000))[-1]
    assert began == 200
    assert 50 <= counted <= 200
