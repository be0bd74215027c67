"""A trace under several strategies: what is gained where there is something to gain, and nothing where there is not."""

import dataclasses

import numpy as np
import pytest

from evenmoe.costs import SHAPES
from evenmoe.errors import ConfigError
from evenmoe.simulation.continuous import Continuous
from evenmoe.simulation.layer_costs import FormulaCosts
from evenmoe.simulation.straggler import StragglerExecution
from evenmoe.simulation.studies.trace_results import GAINS
from evenmoe.simulation.studies.trace_study import TraceStudy, alike, run_trace
from evenmoe.simulation.workloads.lengths import Fixed, RequestLengths
from evenmoe.simulation.workloads.load_noise import LoadNoise
from evenmoe.simulation.workloads.load_sources import DomainLoadsSource
from evenmoe.simulation.workloads.traces import Trace

SHAPE = dataclasses.replace(SHAPES["mixtral"], name="small", num_layers=2, num_devices=4)
PAIRS_ALONE = FormulaCosts(layer_s_fixed=1e-5, expert_s=0.0, pair_s=1e-6, exchange_pair_s=0.0)
EXECUTION = StragglerExecution(SHAPE, num_loads=1, num_devices=4, costs=PAIRS_ALONE)
SILENT = LoadNoise(request=0.0, alike_tokens=0.0)


def trace(number=120, lengths=(200, 2000), seed=0):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1.0, number))
    return Trace(
        source="made up",
        times_s=times - times[0],
        prompt_tokens=rng.integers(*lengths, size=number),
        output_tokens=np.ones(number, dtype=np.int64),
    )


def loads(noise=SILENT, apart=True):
    """Two topics on opposite halves of the experts, or two of the same load."""
    first = np.array([0.45, 0.45, 0.45, 0.45, 0.05, 0.05, 0.05, 0.05])
    expected = np.array([first, first[::-1] if apart else first])[:, None]
    return DomainLoadsSource(topics=("a", "b"), expected_GLE=expected, top_k=2, noise=noise)


def study(**changes):
    settings = {
        "trace": trace(),
        "loads": loads(),
        "execution": EXECUTION,
        "strategies": ("greedy_variance", "peak_excess", "auto"),
        "seeds": (1, 2),
        "topic_run": 8.0,
    } | changes
    return TraceStudy(**settings)


def test_topics_apart_pay_and_the_sentence_says_so():
    results = run_trace(study(seeds=(1, 2, 3, 4)), jobs=1)
    assert [line.strategy for line in results.lines] == ["fcfs", "greedy_variance", "peak_excess", "auto"]
    fcfs, _, ours, _ = results.lines
    assert ours.full_straggler_factor.mean < 0.9 * fcfs.full_straggler_factor.mean
    assert ours.gains["capacity"].same_lengths.low > 0.02
    assert all(gain is None for gain in fcfs.gains.values())
    assert results.rate_per_s == pytest.approx(0.9 * results.capacity_per_s)
    assert ours.gains["capacity"].same_topics.mean == pytest.approx(0, abs=1e-12)
    assert results.advice.reason in ("pays", "capacity", "harmful", "unclear")
    assert "more requests of one length" in results.advice.sentence


def test_where_every_request_is_alike_nothing_is_gained():
    """The null test: the same topics, no noise, one length."""
    alike_all = study(loads=loads(apart=False), lengths=RequestLengths(prompt=Fixed(500)))
    results = run_trace(alike_all, jobs=1)
    for line in results.lines[1:]:
        for name in ("capacity", *GAINS):
            gain = line.gains[name]
            if gain is not None:
                for part in (gain.as_is, gain.same_lengths, gain.same_topics):
                    assert (part.low, part.mean, part.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (results.advice.verdict, results.advice.reason) == ("off", "noise")


def test_a_gain_by_lengths_alone_is_not_called_one_by_experts():
    """Alike topics of unequal requests: strategies that even the load take short requests first."""
    results = run_trace(study(loads=loads(apart=False)), jobs=1)
    by_strategy = {line.strategy: line.gains for line in results.lines[1:]}
    assert by_strategy["greedy_variance"]["latency_p50_s"].as_is.mean > 0.05
    for gains in by_strategy.values():
        assert gains["straggler_factor"].as_is.mean == pytest.approx(0, abs=1e-9)
        assert gains["capacity"].same_lengths.mean == pytest.approx(0, abs=1e-12)
        assert gains["latency_mean_s"].same_lengths.mean == pytest.approx(0, abs=1e-12)
    assert (results.advice.verdict, results.advice.reason) == ("off", "noise")


def test_noise_that_nobody_can_foretell_gains_nothing_and_foretold_noise_little():
    told_topics = LoadNoise(request=0.3, alike_tokens=0.0, prediction="expected")
    told_all = LoadNoise(request=0.3, alike_tokens=0.0, prediction="exact")
    factors = {}
    for name, noise in (("topics", told_topics), ("all", told_all)):
        lines = run_trace(study(loads=loads(noise, apart=False), strategies=("peak_excess",)), jobs=1).lines
        factors[name] = lines[1].gains["straggler_factor"].same_lengths.mean
    assert factors["topics"] == pytest.approx(0, abs=1e-12)
    assert 0.005 < factors["all"] < 0.1


def test_without_explaining_the_gains_are_those_of_the_requests_as_they_are():
    short = study(strategies=("peak_excess",), seeds=(1, 2))
    whole, plain = run_trace(short, jobs=1), run_trace(short, explain=False, jobs=1)
    for name in ("capacity", *GAINS):
        one, other = whole.lines[1].gains[name], plain.lines[1].gains[name]
        assert (one and one.as_is) == (other and other.as_is)
        assert other is None or (other.same_lengths, other.same_topics) == (None, None)


def test_the_same_study_gives_the_same_data_in_one_process_and_in_two():
    short = study(strategies=("auto",), seeds=(1, 2))
    assert run_trace(short, jobs=1).as_dict() == run_trace(short, jobs=2).as_dict()


def test_overload_is_told_and_ends():
    results = run_trace(study(share=2.0, strategies=("auto",)), jobs=1)
    assert results.advice.reason in ("relieves", "overload")


def test_a_rate_of_ones_own_and_progress():
    said = []
    results = run_trace(
        study(strategies=("auto",), seeds=(1, 2), share=None, rate_per_s=40.0),
        jobs=1,
        announce=lambda done, total: said.append((done, total)),
    )
    assert results.rate_per_s == pytest.approx(40.0)
    assert said[-1] == (2 * 2 * 2 * 3, 2 * 2 * 2 * 3)
    assert said == sorted(said)


def test_continuous_batching_runs_too():
    results = run_trace(
        study(strategies=("auto",), seeds=(1, 2), batching=Continuous(max_running=16, token_budget=4096)),
        jobs=1,
    )
    assert all(line.capacity_per_s.mean > 0 for line in results.lines)


def test_alike_topics_keep_the_whole_load():
    same = alike(loads())
    assert same.expected_GLE[0].tolist() == same.expected_GLE[1].tolist()
    assert same.expected_GLE.sum() == pytest.approx(loads().expected_GLE.sum())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"strategies": ("fcfs",)}, "strategies"),
        ({"strategies": ("auto", "auto")}, "strategies"),
        ({"strategies": ("soonest",)}, "strategies"),
        ({"seeds": ()}, "seeds"),
        ({"share": 0.0}, "share"),
        ({"share": None}, "share"),
        ({"rate_per_s": 3.0}, "share"),
        ({"by_session": True}, "by_session"),
    ],
)
def test_settings_that_cannot_act_are_refused_before_anything_runs(changes, field):
    with pytest.raises(ConfigError, match=field):
        study(**changes)
