"""Memory is given back now and then, and only where that can be done."""

import psutil
import pytest
import torch

from evenmoe.serving.vllm.trimming import EVERY_S, Trimmer, malloc_trim


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_memory_is_given_back_every_so_often():
    clock, calls = Clock(), []
    trimmer = Trimmer(lambda: calls.append(clock.now_s), clock)
    for _ in range(100):
        clock.now_s += EVERY_S / 10
        trimmer.step_done()
    assert len(calls) == 10
    assert calls[0] == 100.0 + EVERY_S


def test_a_pause_is_followed_by_one_only():
    clock, calls = Clock(), []
    trimmer = Trimmer(lambda: calls.append(1), clock)
    clock.now_s += 10 * EVERY_S
    assert [trimmer.step_done() for _ in range(3)] == [True, False, False]


def test_without_the_function_nothing_is_done():
    clock = Clock()
    trimmer = Trimmer(None, clock)
    clock.now_s += 2 * EVERY_S
    assert not trimmer.step_done()


def test_free_memory_between_used_memory_is_given_back():
    trim = malloc_trim()
    if trim is None:
        pytest.skip("a C library without malloc_trim")
    process = psutil.Process()
    kept = [torch.ones(16_000) for _ in range(4_000)]  # 64 kB each: below the size that is mapped on its own
    full = process.memory_info().rss
    kept = kept[::50]
    trim()
    assert process.memory_info().rss < full - 100 * 2**20
    assert all(bool(tensor.all()) for tensor in kept)
