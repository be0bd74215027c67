"""A small soak of a running server with routing and scheduling on; the large one is runs/serve_soak.sh."""

import asyncio
import re

import psutil
import pytest

pytest.importorskip("vllm")

from evenmoe.serving.load import ClientOptions, heldout_texts, prompts_of_texts, served_model
from evenmoe.serving.load.sustained import Traffic, capacity, soak
from tests.serve.serving_process import serving

pytestmark = pytest.mark.serve

SUSTAINED, TWICE = 150, 60
WORDS = 32
COUNTED = re.compile(r"^vllm:request_success_total\{.*\} (\S+)$", re.MULTILINE)


def resident_bytes(server):
    total = 0
    for pid in server.processes():
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def counted(server):
    return sum(map(float, COUNTED.findall(server.request("/metrics")[1])))


@pytest.fixture(scope="module")
def runs():
    with serving(
        "--policy", "token_drop", "--gamma", "1.5", "--devices", "4", "--scheduler", "fcfs"
    ) as server:
        options = ClientOptions(
            url=server.url, model=asyncio.run(served_model(server.url)), ignore_eos=True, timeout_s=120
        )
        traffic = Traffic(prompts=prompts_of_texts(heldout_texts(), WORDS), max_tokens=4)
        rate = 0.7 * capacity(options, traffic, 40)
        before = counted(server)
        sustained = soak(options, traffic, rate, SUSTAINED, lambda: resident_bytes(server), every_s=0.1)
        twice = soak(options, traffic, 2 * rate, TWICE)
        yield sustained, twice, counted(server) - before, server.complete("The president of the")


def test_none_is_lost_and_none_answered_twice(runs):
    for found, number in zip(runs[:2], (SUSTAINED, TWICE), strict=True):
        assert found.result.outcomes == {"finished": number}
        assert (found.result.lost, found.result.doubled, found.result.strayed) == (0, 0, 0)
        assert found.result.output_tokens == 4 * number


def test_the_server_has_finished_as_many_as_the_client_was_answered(runs):
    assert runs[2] == SUSTAINED + TWICE


def test_memory_does_not_run_away(runs):
    memory = runs[0].memory
    assert memory is not None
    assert memory.slope * SUSTAINED < 0.05 * memory.level  # as little as a hundred requests can show


def test_the_server_answers_afterwards(runs):
    assert runs[3]
