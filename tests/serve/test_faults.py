"""vLLM behind `evenmoe serve`, and what goes wrong at its door or inside: clear errors, and others answered right."""

from __future__ import annotations

import json
import re
import time

import pytest

pytest.importorskip("vllm")

from prometheus_client.parser import text_string_to_metric_families

from tests.serve.faults import (
    INTRUSIONS,
    REFUSALS,
    WRONG_LOADS,
    Bystanders,
    Door,
    check_refused,
    crash_mid_stream,
    send,
    stalled,
    vanish_mid_stream,
    vanish_together,
)
from tests.serve.serving_process import serving

pytestmark = pytest.mark.serve
NUM_SLOTS = 8
FLAGS = ("--policy", "token_drop:isolation=strict", "--gamma", "1.0", "--max-num-seqs", str(NUM_SLOTS))
BY_LOAD = ("--scheduler", "greedy_variance", "--predictor", "client", "--dtype", "float32")


@pytest.fixture(scope="module")
def running():
    """A server that limits experts and schedules by the loads that clients send; shared by all that it must survive."""
    with serving(*FLAGS, *BY_LOAD) as server:
        yield server
        assert server.status is None, server.log


@pytest.fixture(scope="module")
def door(running):
    return Door(url=running.url, model="bundled:text")


@pytest.fixture(scope="module")
def others(door):
    """Who is answered meanwhile."""
    with Bystanders(door).asking() as others:
        yield others


@pytest.mark.parametrize("vanish", [vanish_mid_stream, crash_mid_stream])
def test_the_engine_stops_working_for_a_client_that_is_gone(running, vanish):
    """First of all, while nobody else asks: fewer tokens are made than were asked for."""
    door = Door(url=running.url, model="bundled:text", long_tokens=900)
    before = made = _num_generated(running)
    vanish(door)
    while (now := _num_generated(running)) == before or now > made:
        made = now
        time.sleep(1.0)  # far more than a token takes
    assert 0 < made - before < door.long_tokens


@pytest.mark.parametrize("refusal", [*REFUSALS, *WRONG_LOADS], ids=lambda refusal: refusal.name)
def test_a_request_with_a_mistake_is_refused(door, others, refusal):
    check_refused(door, refusal)
    others.check_so_far()


def test_a_right_load_is_taken(door):
    answer = send(door, json.dumps(door.body(vllm_xargs={"expert_load": [1.0] * 128})).encode())
    assert answer.status_code == 200, answer.text


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


def test_the_record_of_the_faults_has_no_defect_of_ours(running, door, others):
    """Whatever was refused was refused on purpose: no error of evenmoe's own code, and one process of each kind."""
    others.check()
    frames = re.findall(r'File "\S*/src/evenmoe/\S+", line \d+', running.log)
    assert not frames, sorted(set(frames))
    kinds = [name for name in running.processes().values() if "VLLM::" in name]
    assert len(kinds) == len(set(kinds)) == 2, kinds


def _num_generated(server) -> float:
    """Tokens that vLLM has made so far."""
    status, page = server.request("/metrics")
    assert status == 200
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "vllm:generation_tokens_total")
