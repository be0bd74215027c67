"""Figures between two scrapes: the recorder's own, of the steps in between alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.serving.monitor import ScrapeError, figures_between
from evenmoe.serving.monitor.change import Change
from evenmoe.serving.monitor.scrape import parse_scrape
from evenmoe.serving.observation import names
from evenmoe.serving.observation.collector import metrics_page
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.scheduling_snapshot import Histogram
from tests.serving.observation.counting import Counting
from tests.serving.observation.test_collector import SCHEDULING, MemorySource, full_source


def scraped(source, at_s=0.0):
    return parse_scrape(metrics_page(source).decode(), url="http://a/metrics", at_s=at_s)


def told(counting, scheduling=None):
    """What a server shows of a recorder that has counted one request and three tokens in every step."""
    steps = len(counting.steps)
    snapshot = LoadsSnapshot.of(
        counting.loads(), counting.placement, num_steps=steps, num_tokens=3 * steps, num_requests=steps
    )
    return MemorySource(loads=snapshot, scheduling=scheduling)


# even, so that top-2 makes whole tokens of every sum
LOADS = st.lists(st.lists(st.sampled_from([0, 2, 4, 8]), min_size=8, max_size=8), min_size=1, max_size=5)


@settings(max_examples=50)
@given(LOADS, LOADS, st.sampled_from([2, 4, 8]))
def test_they_are_those_of_the_steps_in_between(first, second, cap):
    whole, part = Counting(), Counting()
    for load in first:
        whole.step(np.reshape(load, (2, 4)))
    before = scraped(told(whole), at_s=10.0)
    for load in second:
        before_LE = np.reshape(load, (2, 4))
        whole.step(before_LE, np.minimum(before_LE, cap))
        part.step(before_LE, np.minimum(before_LE, cap))
    figures = figures_between(before, scraped(told(whole), at_s=14.0))
    loads, oracle = figures.loads, part.loads()
    assert loads is not None
    assert figures.seconds == 4.0
    assert not figures.restarted
    assert (loads.num_requests, loads.num_tokens) == (len(second), 3 * len(second))
    assert loads.straggler_factor == pytest.approx(oracle.straggler_factor)
    assert loads.straggler_factor_asked == pytest.approx(oracle.straggler_factor_before)
    assert loads.drop_rate == pytest.approx(oracle.drop_rate)
    assert loads.tokens_without_expert == pytest.approx(oracle.tokens_without_expert)
    assert loads.expert_peak_to_mean == pytest.approx(oracle.peak_to_mean_after)
    assert loads.expert_peak_to_mean_asked == pytest.approx(oracle.peak_to_mean_before)
    whole_LD = LoadsSnapshot.of(oracle, part.placement, num_steps=0, num_tokens=0, num_requests=0)
    np.testing.assert_allclose(loads.asked_LD, whole_LD.before_LD)
    np.testing.assert_allclose(loads.ran_LD, whole_LD.after_LD)


def test_by_hand_since_the_start():
    figures = figures_between(None, scraped(full_source()))
    assert figures.seconds is None
    assert figures.loads is not None
    assert figures.loads.straggler_factor == (4 + 6 + 4 + 4) / 20
    assert figures.loads.drop_rate == pytest.approx(1 - (12 + 16) / 40)
    assert figures.loads.layers == ("model.layers.0.mlp.experts", "model.layers.1.mlp.experts")
    assert figures.config["policy"] == "token_drop"
    scheduling = figures.scheduling
    assert scheduling is not None
    assert (scheduling.num_waiting, scheduling.num_running, scheduling.num_admitted) == (4, 3, 6)
    assert scheduling.mean_passed_over == 21 / 6
    assert scheduling.mean_scheduling_ms == pytest.approx(0.4)
    assert scheduling.prediction_error == {"plain": 0.25, "corrected": 0.125}
    assert (scheduling.num_feedback, scheduling.num_unaligned) == (5, 1)


def test_nothing_told_in_between():
    same = scraped(full_source())
    figures = figures_between(same, replace(same, at_s=9.0))
    assert figures.loads is None
    assert figures.scheduling is not None
    assert figures.scheduling.num_admitted == 0
    assert figures.scheduling.mean_passed_over is None
    assert figures.scheduling.p99_scheduling_ms is None


def test_a_server_that_tells_the_model_alone():
    # the snapshot of zero counts at the start
    figures = figures_between(None, scraped(told(Counting())))
    assert figures.loads is None
    assert figures.scheduling is None
    assert figures.least_requests == 8


def test_a_restart_in_between_counts_from_there():
    old, new = Counting(), Counting()
    for _ in range(5):
        old.step(np.full((2, 4), 3))
    new.step([[4, 0, 0, 0], [1, 1, 1, 1]])
    figures = figures_between(scraped(told(old), 1.0), scraped(told(new), 2.0))
    assert figures.restarted
    assert figures.seconds is None
    assert figures.loads is not None
    assert figures.loads.num_steps == 1
    assert figures.loads.straggler_factor == (4 + 2) / (2 + 2)


def test_a_server_without_evenmoe_is_refused():
    with pytest.raises(ScrapeError, match="none of evenmoe"):
        figures_between(None, parse_scrape("vllm_x 1.0\n", url="http://a/metrics", at_s=0.0))


def test_figures_are_data():
    import json

    body = figures_between(None, scraped(full_source())).as_dict()
    assert json.loads(json.dumps(body)) == body
    assert body["loads"]["straggler_factor"] == 0.9


@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4),
    st.lists(st.integers(0, 50), min_size=4, max_size=4),
    st.sampled_from([0.5, 0.9, 0.99]),
)
def test_a_quantile_lies_in_its_bucket(earlier, new, q):
    bounds = (0.001, 0.01, 0.1)

    def shows(counts):
        histogram = Histogram(bounds=bounds, counts=tuple(counts), sum=1.0)
        return scraped(MemorySource(scheduling=replace(SCHEDULING, scheduling_s=histogram)))

    change = Change(shows(earlier), shows([a + b for a, b in zip(earlier, new, strict=True)]))
    found = change.quantile(names.SCHEDULING_SECONDS, q)
    if not sum(new):
        assert found is None
        return
    assert found is not None
    bucket = next(i for i in range(4) if sum(new[: i + 1]) >= q * sum(new))
    low, high = (0.0, *bounds)[bucket], (*bounds, 0.1)[bucket]
    assert low <= found <= high + 1e-12


def test_a_quantile_by_hand():
    # 9 of 10 decisions within 1 ms: the median is 5/9 on the way there, the 99th percentile above all bounds
    change = Change(None, scraped(full_source()))
    assert change.quantile(names.SCHEDULING_SECONDS, 0.5) == pytest.approx(0.001 * 5 / 9)
    assert change.quantile(names.SCHEDULING_SECONDS, 0.99) == 0.001
    assert change.mean(names.SCHEDULING_SECONDS) == pytest.approx(0.0004)
