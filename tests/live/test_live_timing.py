"""Batch times, prompts and the engine's padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.live.clock import CpuClock, WallClock
from evenmoe.live.prompts import Prompts, prompts_of_files, prompts_of_texts
from evenmoe.live.timing import fit_batch_time
from evenmoe.live.warmup import warm_up
from tests.live.live_cases import FormulaEngine, StepClock, prompts


@given(fixed=st.floats(0, 10), per_token=st.floats(0, 1), tokens=st.sets(st.integers(1, 5000), min_size=2))
def test_a_line_is_found(fixed, per_token, tokens):
    sizes = np.array(sorted(tokens))
    found = fit_batch_time(sizes, fixed + per_token * sizes)
    for size in sizes.tolist():
        assert found.seconds(size) == pytest.approx(fixed + per_token * size, rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(1e-4, 10)), min_size=1, max_size=20))
def test_no_part_is_negative_and_the_mean_is_right(measured):
    tokens, seconds = zip(*measured, strict=True)
    found = fit_batch_time(tokens, seconds)
    assert found.fixed_s >= 0
    assert found.per_token_s >= 0
    mean = np.mean([found.seconds(size) for size in tokens])
    assert mean == pytest.approx(np.mean(seconds), rel=1e-6)


def test_no_measurement_is_refused():
    with pytest.raises(ShapeError):
        fit_batch_time([], [])
    with pytest.raises(ShapeError):
        fit_batch_time([1, 2], [1.0])


def test_the_warm_up_meets_every_topic():
    clock = StepClock()
    found = warm_up(
        prompts(np.random.default_rng(0), topics=40, each=2),
        FormulaEngine(clock),
        clock,
        max_batch_size=5,
        repeats=1,
    )
    assert set(found.samples) == {f"t{topic}" for topic in range(40)}
    assert all(found.samples.values())
    assert found.batch_time.fixed_s == pytest.approx(0.01)
    with pytest.raises(ConfigError, match="repeats"):
        warm_up(prompts(np.random.default_rng(0)), FormulaEngine(clock), clock, max_batch_size=2, repeats=0)


def test_clocks_do_not_run_back_and_waiting_costs_the_cpu_clock_nothing():
    wall, cpu = WallClock(), CpuClock()
    times = [wall.now_s() for _ in range(100)]
    assert times == sorted(times)
    wall.sleep_until(-1.0)
    cpu.sleep_until(1000.0)
    assert 1000.0 <= cpu.now_s() < 1010.0
    cpu.sleep_until(5.0)
    assert cpu.now_s() >= 1000.0


def test_prompts_are_split_by_topic_and_taken_in_turn():
    both = Prompts(
        by_topic={"a": tuple(np.array([n]) for n in range(4)), "b": (np.array([10]), np.array([11]))}
    )
    assert [ids.tolist() for ids in both.in_turn()] == [[0], [10], [1], [11], [2], [3]]
    first, rest = both.split(0.5)
    assert [ids.tolist() for ids in first.in_turn()] == [[0], [10], [1]]
    assert [ids.tolist() for ids in rest.in_turn()] == [[2], [11], [3]]
    with pytest.raises(ConfigError, match="prompts of 'c'"):
        Prompts(by_topic={"c": (np.array([1]),)}).split(0.5)
    with pytest.raises(ConfigError, match="prompts"):
        Prompts(by_topic={})
    with pytest.raises(ConfigError, match="'c'"):
        Prompts(by_topic={"c": ()})


def test_texts_and_files_become_prompts(tiny_checkpoint, tmp_path):
    from evenmoe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny_checkpoint)
    cut = prompts_of_texts({"words": "the quick brown fox " * 40}, tokenizer, 16)
    assert {len(ids) for ids in cut.by_topic["words"]} == {16}
    with pytest.raises(ConfigError, match="prompt-tokens"):
        prompts_of_texts({"words": "the"}, tokenizer, 16)
    path = tmp_path / "asked.jsonl"
    path.write_text(
        '{"prompt": "the quick brown fox jumps", "topic": "a"}\n{"prompt": "1 4 9", "topic": "b"}\n'
    )
    read = prompts_of_files([path], tokenizer, 3)
    assert read.topics == ("a", "b")
    assert all(1 <= len(ids) <= 3 for ids in read.in_turn())


def test_padding_is_on_the_left_and_masked():
    from evenmoe.live.engine import padded

    ids, mask = padded([np.array([5, 6, 7]), np.array([8])], 1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
