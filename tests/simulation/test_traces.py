"""Traces are read exactly, from real files too, and scaled and cut as said."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.simulation.workloads.traces import Trace, read_trace
from tests.oracles.workloads import spread
from tests.simulation.trace_cases import AZURE, MOONCAKE, OWN, written

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "traces"
recorded = pytest.mark.skipif(not RECORDED.exists(), reason="the recorded traces are not here")


def made(times, **columns) -> Trace:
    ones = np.ones(len(times), dtype=np.int64)
    columns = {"prompt_tokens": ones, "output_tokens": ones} | columns
    return Trace(source="made", times_s=np.array(times, dtype=float), **columns)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_azure(tmp_path, name):
    trace = read_trace(written(tmp_path, name, AZURE))
    assert trace.source == name
    assert trace.times_s.tolist() == pytest.approx([0, 0.5, 0.5], abs=1e-9)
    assert trace.prompt_tokens.tolist() == [4808, 3180, 110]
    assert trace.output_tokens.tolist() == [10, 8, 27]
    assert (trace.topics, trace.topic_N, trace.session_N) == ((), None, None)


def test_azure_with_time_zones_and_columns_that_it_may_grow(tmp_path):
    text = (
        "Model,TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "a,2024-05-10 00:00:00.009930+00:00,5,6\nb,2024-05-10 02:00:01.009930+02:00,7,8\n"
    )
    trace = read_trace(written(tmp_path, "a.csv", text))
    assert trace.times_s.tolist() == [0, 1]
    assert trace.output_tokens.tolist() == [6, 8]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_mooncake(tmp_path, name):
    trace = read_trace(written(tmp_path, name, MOONCAKE))
    assert trace.times_s.tolist() == [0, 0, 3.027]
    assert trace.prompt_tokens.tolist() == [6758, 7322, 900]
    assert trace.output_tokens.tolist() == [500, 1, 16]
    assert trace.session_N.tolist() == [0, 1, 0], (
        "all prompts begin with block 0; the next one tells sessions"
    )


@pytest.mark.parametrize(
    ("blocks", "sessions"),
    [
        ([[4, 5], [4, 5]], [0, 0]),
        ([[4], [4, 5], [6]], [0, 0, 1]),
        ([[4], [4, 5]], [0, 0]),
        ([[4, 5, 6], [4, 5, 7], [4, 5, 6]], [0, 1, 0]),
    ],
)
def test_a_session_is_told_by_the_first_block_that_not_all_share(tmp_path, blocks, sessions):
    line = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": %s}\n'
    text = "".join(line % ids for ids in blocks)
    assert read_trace(written(tmp_path, "a.jsonl", text)).session_N.tolist() == sessions


def test_mooncake_without_block_ids_knows_no_sessions(tmp_path):
    text = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n' * 2
    assert read_trace(written(tmp_path, "a.jsonl", text)).session_N is None


@pytest.mark.parametrize("text", [OWN, "\ufeff" + OWN.replace("\n", "\r\n"), OWN + "\n\n"])
def test_our_own(tmp_path, text):
    trace = read_trace(written(tmp_path, "a.csv", text))
    assert trace.times_s.tolist() == [0, 0.25, 2]
    assert trace.prompt_tokens.tolist() == [12, 40, 7]
    assert trace.output_tokens.tolist() == [3, 1, 90]
    assert (trace.topics, trace.topic_N.tolist()) == (("code", "news"), [0, 1, 0])


def test_our_own_with_columns_in_any_order_and_topics_in_quotes(tmp_path):
    text = 'topic,output_tokens,arrived_s,prompt_tokens\n"law, German",2,1e1,3\n'
    trace = read_trace(written(tmp_path, "a.csv", text))
    assert (trace.topics, trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == (
        ("law, German",),
        [3],
        [2],
    )


@settings(max_examples=50)
@given(data=st.data())
def test_whatever_is_written_is_read(tmp_path_factory, data):
    gaps = data.draw(st.lists(st.floats(0, 1e3), min_size=1, max_size=20))
    times = np.cumsum(gaps).tolist()
    tokens = st.lists(st.integers(1, 10**9), min_size=len(times), max_size=len(times))
    prompts, outputs = data.draw(tokens), data.draw(tokens)
    rows = "".join(f"{t!r},{p},{o}\n" for t, p, o in zip(times, prompts, outputs, strict=True))
    path = written(
        tmp_path_factory.mktemp("traces"), "a.csv", "arrived_s,prompt_tokens,output_tokens\n" + rows
    )
    trace = read_trace(path)
    assert trace.times_s.tolist() == [time - times[0] for time in times]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == (prompts, outputs)


@recorded
@pytest.mark.parametrize(
    ("name", "requests", "rate", "most_prompt", "most_output"),
    [
        ("azure_llm_2023_code.csv", 8819, 2.566, 7437, 1899),
        ("azure_llm_2023_conv.csv", 19366, 5.530, 14050, 1000),
        ("mooncake_conversation.jsonl", 12031, 3.401, 126195, 2000),
    ],
)
def test_the_recorded_traces_are_read(name, requests, rate, most_prompt, most_output):
    trace = read_trace(RECORDED / name)
    assert len(trace) == requests
    assert trace.rate_per_s == pytest.approx(rate, abs=5e-4)
    assert (trace.prompt_tokens.max(), trace.output_tokens.max()) == (most_prompt, most_output)
    assert min(trace.prompt_tokens.min(), trace.output_tokens.min()) >= 1


@recorded
def test_what_mooncakes_clock_and_sessions_are():
    trace = read_trace(RECORDED / "mooncake_conversation.jsonl")
    assert len(set(trace.times_s.tolist())) == 1180
    assert np.diff(np.unique(trace.times_s)).min() >= 2.9
    assert len(set(trace.session_N.tolist())) == 7373
    spread_out = trace.spread_ties()
    assert len(set(spread_out.times_s[:-20].tolist())) == len(trace) - 20
    assert spread_out.rate_per_s == pytest.approx(trace.rate_per_s)


# Scaled and cut -------------------------------------------------------------------------------------------------------


def test_scaled_by_factor_and_to_a_rate():
    trace = made([0, 1, 1, 4])
    assert trace.rate_per_s == 0.75
    assert trace.scaled(factor=0.5).times_s.tolist() == [0, 0.5, 0.5, 2]
    assert trace.scaled(rate_per_s=3).times_s.tolist() == [0, 0.25, 0.25, 1]
    assert trace.scaled(rate_per_s=3).rate_per_s == 3
    assert trace.times_s.tolist() == [0, 1, 1, 4]


def test_cut_to_a_number_and_to_a_range():
    trace = made(
        [0, 1, 1, 4, 6], prompt_tokens=np.array([1, 2, 3, 4, 5]), topics=("a",), topic_N=np.zeros(5, int)
    )
    assert trace.cut(num_requests=2).prompt_tokens.tolist() == [1, 2]
    assert trace.cut(num_requests=99).prompt_tokens.tolist() == [1, 2, 3, 4, 5]
    ranged = trace.cut(start_s=1, stop_s=6)
    assert (ranged.prompt_tokens.tolist(), ranged.times_s.tolist()) == ([2, 3, 4], [0, 0, 3])
    assert (ranged.topics, len(ranged.topic_N)) == (("a",), 3)
    assert trace.cut(start_s=0.5, num_requests=1).prompt_tokens.tolist() == [2]


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.5, 3.0]), max_size=12))
def test_ties_are_spread_as_the_oracle_does(gaps):
    times = np.cumsum([0.0, *gaps])
    moved = made(times).spread_ties().times_s
    np.testing.assert_allclose(moved, spread(times.tolist()))
    assert (np.diff(moved) >= 0).all()


@pytest.mark.parametrize(
    ("act", "field"),
    [
        (lambda trace: trace.scaled(), "factor"),
        (lambda trace: trace.scaled(factor=1.0, rate_per_s=1.0), "factor"),
        (lambda trace: trace.scaled(factor=0.0), "factor"),
        (lambda trace: trace.scaled(factor=float("nan")), "factor"),
        (lambda trace: trace.scaled(rate_per_s=-1.0), "rate_per_s"),
        (lambda trace: made([0, 0]).scaled(rate_per_s=1.0), "rate_per_s"),
        (lambda trace: trace.cut(num_requests=0), "num_requests"),
        (lambda trace: trace.cut(start_s=-1.0), "start_s"),
        (lambda trace: trace.cut(start_s=3.0, stop_s=2.0), "stop_s"),
        (lambda trace: trace.cut(start_s=2.0, stop_s=3.0), "start_s, stop_s"),
        (lambda trace: trace.cut(start_s=9.0), "start_s, stop_s"),
        (lambda trace: made([]), "times_s"),
        (lambda trace: made([1.0, 2.0]), "times_s"),
        (lambda trace: made([0.0, 2.0, 1.0]), "times_s"),
        (lambda trace: made([0.0, float("nan")]), "times_s"),
        (lambda trace: made([0.0], prompt_tokens=np.array([0])), "prompt_tokens"),
        (lambda trace: made([0.0], output_tokens=np.array([0])), "output_tokens"),
    ],
)
def test_what_cannot_be_is_refused(act, field):
    with pytest.raises(ConfigError) as refused:
        act(made([0, 1, 1, 4]))
    assert refused.value.field == field


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ShapeError, match="prompt_tokens"):
        made([0.0], prompt_tokens=np.array([1, 2]))
