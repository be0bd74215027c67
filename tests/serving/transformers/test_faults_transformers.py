"""The transformers server and clients that do wrong: refused in words, survived, and the others get right answers."""

from __future__ import annotations

import pytest

from evenmoe.models.bundled import bundled_names
from tests.serve.faults import (
    INTRUSIONS,
    REFUSALS,
    WRONG_LOADS,
    Bystanders,
    Door,
    check_refused,
    stalled,
    vanish_together,
)
from tests.serve.serving_process import serving

pytestmark = pytest.mark.skipif("text" not in bundled_names(), reason="the bundled model is not built")
NUM_SLOTS = 8


@pytest.fixture(scope="module")
def door():
    """A server that limits experts and schedules by the loads that clients send."""
    flags = ("--policy", "token_drop:isolation=strict", "--gamma", "1.0", "--max-num-seqs", str(NUM_SLOTS))
    by_load = ("--scheduler", "greedy_variance", "--predictor", "client", "--dtype", "float32")
    with serving(*flags, *by_load, engine="transformers") as server:
        yield Door(url=server.url, model="bundled:text", long_tokens=60)
        assert server.status is None, server.log
        assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module")
def others(door):
    """Who is answered meanwhile."""
    with Bystanders(door).asking() as others:
        yield others


@pytest.mark.parametrize("refusal", [*REFUSALS, *WRONG_LOADS], ids=lambda refusal: refusal.name)
def test_a_request_with_a_mistake_is_refused(door, others, refusal):
    check_refused(door, refusal)
    others.check_so_far()


@pytest.mark.parametrize("intrusion", INTRUSIONS, ids=lambda intrusion: intrusion.__name__)
def test_a_client_that_breaks_off_is_survived(door, others, intrusion):
    intrusion(door)
    others.check()


def test_stalled_clients_do_not_stop_the_others(door, others):
    with stalled(door, 12):
        others.check()


def test_many_clients_that_vanish_together(door, others):
    vanish_together(door, 2 * NUM_SLOTS)
    others.check()
