"""What `/metrics` shows of snapshots: every metric, by hand; nothing where nothing is configured; never a failure."""

import logging
import re

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from evenmoe.serving.config import MetricsConfig, RoutingConfig, ServingConfig
from evenmoe.serving.observation.collector import MoECollector, metrics_page
from evenmoe.serving.observation.loads_file import write_loads_snapshot
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.names import METRICS
from evenmoe.serving.observation.scheduling_file import write_scheduling_snapshot
from evenmoe.serving.observation.scheduling_snapshot import Histogram, SchedulingSnapshot
from evenmoe.serving.observation.source import CONFIG_NAME, SpoolSource, write_config
from evenmoe.serving.observation.spool import Spool
from tests.serving.observation.counting import Counting

CONFIG = ServingConfig(routing=RoutingConfig(gamma=1.5, num_devices=2))
SCHEDULING = SchedulingSnapshot(
    strategy="auto",
    num_waiting=4,
    num_running=3,
    num_admitted=6,
    passed_over=Histogram(bounds=(0.0, 1.0, 4.0), counts=(3, 1, 0, 2), sum=21.0),
    scheduling_s=Histogram(bounds=(0.001,), counts=(9, 1), sum=0.004),
    prediction_error={"plain": 0.25, "corrected": 0.125},
    num_feedback=5,
    num_unaligned=1,
)


class MemorySource:
    """A source in this process's memory."""

    engine = "a test"

    def __init__(self, config=CONFIG, loads=None, scheduling=None):
        self._config, self._loads, self._scheduling = config, loads, scheduling

    def take(self, snapshot):
        self._loads = snapshot

    def config(self):
        return self._config

    def loads(self):
        return self._loads

    def scheduling(self):
        return self._scheduling


def by_hand():
    """Two steps of two layers, four experts on two devices, top-2."""
    counting = Counting()
    counting.step([[5, 1, 0, 2], [2, 2, 2, 2]], [[3, 1, 0, 2], [2, 2, 2, 2]])
    counting.step([[0, 0, 6, 6], [1, 5, 5, 1]], [[0, 0, 3, 3], [1, 3, 3, 1]])
    return LoadsSnapshot.of(counting.loads(), counting.placement, num_steps=2, num_tokens=10, num_requests=8)


def full_source():
    return MemorySource(loads=by_hand(), scheduling=SCHEDULING)


def samples(page):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_the_page_by_hand():
    found = samples(metrics_page(full_source()))

    def value(name, /, **labels):
        return found[(name, *sorted(labels.items()))]

    assert value("evenmoe_expert_pairs_total", layer="0", device="0", stage="asked") == 5 + 1
    assert value("evenmoe_expert_pairs_total", layer="0", device="1", stage="asked") == 2 + 6 + 6
    assert value("evenmoe_expert_pairs_total", layer="0", device="1", stage="ran") == 2 + 3 + 3
    assert value("evenmoe_busiest_device_pairs_total", layer="0", stage="asked") == 6 + 12
    assert value("evenmoe_busiest_device_pairs_total", layer="0", stage="ran") == 4 + 6
    assert value("evenmoe_even_device_pairs_total", layer="0") == (8 + 12) / 2
    assert value("evenmoe_busiest_expert_pairs_total", layer="0", stage="asked") == 5 + 6
    assert value("evenmoe_busiest_expert_pairs_total", layer="1", stage="ran") == 2 + 3
    assert value("evenmoe_even_expert_pairs_total", layer="0", stage="asked") == (8 + 12) / 4
    assert value("evenmoe_even_expert_pairs_total", layer="0", stage="ran") == (6 + 6) / 4
    assert value("evenmoe_pairs_asked_total", layer="1") == 8 + 12
    assert value("evenmoe_pairs_kept_total", layer="1") == 8 + 8
    assert value("evenmoe_layer_tokens_total", layer="1") == 10
    # busiest devices 18 + 10 asked and 10 + 8 ran (layers 0 and 1), over even loads 10 + 10
    assert value("evenmoe_straggler_factor", stage="asked") == (6 + 12 + 4 + 6) / 20
    assert value("evenmoe_straggler_factor", stage="ran") == (4 + 6 + 4 + 4) / 20
    assert value("evenmoe_routed_requests_total") == 8
    assert value("evenmoe_routed_tokens_total") == 10
    assert value("evenmoe_routed_steps_total") == 2
    assert value("evenmoe_least_requests") == 8
    assert value("evenmoe_layer_experts", layer="1", name="model.layers.1.mlp.experts") == 4
    assert value("evenmoe_requests_waiting") == 4
    assert value("evenmoe_passed_over_steps_bucket", le="0.0") == 3
    assert value("evenmoe_passed_over_steps_bucket", le="4.0") == 4
    assert value("evenmoe_passed_over_steps_bucket", le="+Inf") == 6
    assert value("evenmoe_passed_over_steps_count") == 6
    assert value("evenmoe_passed_over_steps_sum") == 21
    assert value("evenmoe_scheduling_seconds_sum") == 0.004
    assert value("evenmoe_prediction_error", predictor="corrected") == 0.125
    config = next(key for key in found if key[0] == "evenmoe_config_info")
    assert dict(config[1:])["gamma"] == "1.5"
    assert dict(config[1:])["strategy"] == "auto"


def test_every_metric_is_shown_with_its_labels_and_no_other():
    allowed = {name: set(labels) for metric in METRICS for name, labels in metric.series.items()}
    seen = {}
    for name, *labels in samples(metrics_page(full_source())):
        seen[name] = {label for label, _ in labels}
    assert seen == allowed


def test_names_follow_prometheus():
    for metric in METRICS:
        assert re.fullmatch(r"evenmoe(_[a-z]+)+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")
        assert "le" not in metric.labels
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_series_are_layers_times_devices_however_many_requests():
    counting = Counting(num_layers=3, num_experts=64, num_devices=8)
    for _ in range(5):
        counting.step(np.full((3, 64), 2))
    few = MemorySource(
        loads=LoadsSnapshot.of(
            counting.loads(), counting.placement, num_steps=5, num_tokens=1, num_requests=10**6
        )
    )
    found = samples(metrics_page(few))
    per_device = [key for key in found if dict(key[1:]).get("device")]
    assert len(per_device) == 3 * 8 * 2
    assert len(found) < 3 * 8 * 2 + 3 * 12 + 20


def test_both_text_formats_are_well_formed():
    registry = CollectorRegistry()
    registry.register(MoECollector(full_source()))
    assert generate_openmetrics(registry).endswith(b"# EOF\n")
    families = {
        family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    assert families["evenmoe_passed_over_steps"].type == "histogram"
    assert families["evenmoe_pairs_kept"].type == "counter"


def test_without_a_configuration_nothing_is_shown(tmp_path):
    assert metrics_page(MemorySource(config=None, loads=by_hand(), scheduling=SCHEDULING)) == b""
    assert metrics_page(SpoolSource(Spool(tmp_path), "a test")) == b""


def test_switched_off_nothing_is_shown():
    off = ServingConfig(metrics=MetricsConfig(enabled=False))
    assert metrics_page(MemorySource(config=off, loads=by_hand(), scheduling=SCHEDULING)) == b""


def test_parts_that_are_not_told_are_left_out():
    found = {key[0] for key in samples(metrics_page(MemorySource()))}
    assert found == {"evenmoe_config_info", "evenmoe_least_requests"}


def test_a_spool_shows_what_memory_shows(tmp_path):
    spool = Spool(tmp_path)
    write_config(CONFIG, spool)
    write_loads_snapshot(by_hand(), spool)
    write_scheduling_snapshot(SCHEDULING, spool)
    assert metrics_page(SpoolSource(spool, "a test")) == metrics_page(full_source())


@pytest.mark.parametrize("foreign", [b"", b"[]", b"{", b'{"routing": {"gama": 1}}', b"\xff"])
def test_a_foreign_configuration_shows_nothing(foreign, tmp_path, caplog):
    spool = Spool(tmp_path)
    spool.write(CONFIG_NAME, foreign)
    with caplog.at_level(logging.WARNING):
        assert metrics_page(SpoolSource(spool, "a test")) == b""
    assert CONFIG_NAME in caplog.text


def test_the_configuration_goes_through_the_spool_whole(tmp_path):
    config = ServingConfig(
        routing=RoutingConfig(gamma=1.25, options={"keep": "random"}, num_devices=4, seed=3),
        metrics=MetricsConfig(least_requests=3, interval_s=0.5),
    )
    write_config(config, Spool(tmp_path))
    assert SpoolSource(Spool(tmp_path), "a test").config() == config


def test_a_failing_source_costs_only_its_own_metrics(caplog):
    class Failing(MemorySource):
        def scheduling(self):
            raise PermissionError(13, "no")

    registry = CollectorRegistry()
    Counter("vllm_tokens", "Another's.", registry=registry).inc()
    registry.register(MoECollector(Failing(loads=by_hand())))
    with caplog.at_level(logging.ERROR):
        page = generate_latest(registry)
    assert b"vllm_tokens_total 1.0" in page
    assert b"evenmoe" not in page
    assert "no" in caplog.text


def test_a_registry_refuses_the_same_names_twice():
    registry = CollectorRegistry()
    registry.register(MoECollector(MemorySource()))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(MoECollector(MemorySource()))
