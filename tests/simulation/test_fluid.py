"""The fluid queue: numbers worked out by hand from the published study, and a queue served one by one as the oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.fluid import fluid_gain, fluid_p99_s
from evenmoe.simulation.studies.published import read_published


@pytest.mark.parametrize(("rate", "gain_pct"), [(150, 50.9), (200, 27.1), (250, 21.1), (300, 18.5)])
def test_the_bursty_gains_follow_from_a_throughput_gain_of_12_7_percent(rate, gain_pct):
    assert 100 * fluid_gain(3000, 116.8, 116.8 * 1.127, rate) == pytest.approx(gain_pct, abs=0.06)


@pytest.mark.parametrize(("rate", "gain_pct"), [(200, 27.7), (250, 16.2), (300, 12.7)])
def test_the_poisson_gains_follow_from_a_throughput_gain_of_6_5_percent(rate, gain_pct):
    assert 100 * fluid_gain(3000, 155.9, 155.9 * 1.065, rate) == pytest.approx(gain_pct, abs=0.06)


def test_by_hand():
    # 100 requests at 10/s come within 10 s; at 5/s they take 20 s, at 8/s 12.5 s: the last waits 10 s, and 2.5 s
    assert fluid_p99_s(100, 5, 10) == 10
    assert fluid_p99_s(100, 8, 10) == 2.5
    assert fluid_gain(100, 5, 8, 10) == 0.75


def test_it_predicts_nothing_where_fcfs_keeps_up():
    assert fluid_p99_s(3000, 155.9, 150) == 0
    assert fluid_gain(3000, 155.9, 166, 150) is None
    assert fluid_gain(3000, 116.8, 200, 150) == 1.0


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, float("nan"), 1)])
def test_what_is_not_above_0_is_refused(wrong):
    with pytest.raises(ConfigError, match="above 0"):
        fluid_p99_s(*wrong)


@given(st.integers(1, 400), st.floats(0.1, 50), st.floats(0.1, 50))
def test_the_last_of_a_queue_served_one_by_one_waits_as_long(requests, throughput, rate):
    done_s = 0.0
    for number in range(requests):
        arrived_s = number / rate
        done_s = max(done_s, arrived_s) + 1 / throughput
    wait_s = done_s - arrived_s
    assert fluid_p99_s(requests, throughput, rate) <= wait_s + 1e-9
    assert wait_s <= fluid_p99_s(requests, throughput, rate) + max(1 / throughput, 1 / rate) + 1e-9


def test_what_the_published_figures_imply():
    published = read_published()
    assert 1000 * published.batch_s == pytest.approx(38.1, abs=0.1)
    assert published.throughput_per_s("bursty", "fcfs") == pytest.approx(116.8, abs=0.05)
    assert published.factor("bursty", "fcfs") == pytest.approx(1.796, abs=0.002)
    assert published.factor("bursty", "leading") == pytest.approx(1.593)
    assert published.factor("bursty", "fcfs") / published.factor("bursty", "leading") == pytest.approx(
        1.127, abs=1e-3
    )
    batch_s = published.batch_s * published.factor("poisson", "fcfs")
    assert 1000 * batch_s == pytest.approx(51.3, abs=0.05)
    with pytest.raises(ConfigError, match="one of fcfs, leading"):
        published.throughput_per_s("poisson", "random")


def test_the_study_starts_from_the_published_settings():
    from evenmoe.simulation.studies.paper import PaperConfig

    published, config = read_published(), PaperConfig()
    assert config.requests == published.requests
    assert config.rates_per_s == published.rates_per_s
    assert config.scheduler.max_batch_size == published.batch_size
    even_s = config.prefill_s + config.decode_s * (config.workload.output_tokens - 1)
    assert even_s == pytest.approx(published.batch_s, rel=2e-3)
