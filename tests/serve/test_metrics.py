"""Metrics on vLLM's own `/metrics`: what is counted is what ran, and nothing of fewer than N requests is told."""

import threading
import time
from inspect import unwrap
from itertools import pairwise

import pytest

pytest.importorskip("vllm")

from prometheus_client import REGISTRY
from prometheus_client.multiprocess import MultiProcessCollector

from evenmoe.serving.config import RoutingConfig, ServingConfig
from evenmoe.serving.monitor import figures_between, scrape
from evenmoe.serving.monitor.watch import Watch
from evenmoe.serving.observation import names
from evenmoe.serving.observation.source import write_config
from evenmoe.serving.observation.spool import Spool
from tests.serve.serving_process import server  # noqa: F401

pytestmark = pytest.mark.serve

TOP_K = 4
"""Of the bundled model."""


def at_once(address, count):
    """Send `count` requests together, and wait for their answers."""
    threads = [
        threading.Thread(target=address.complete, args=(f"Number {index} of the old town is " * 3, 12))
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def of_loads(found):
    """Every sample that comes from routing, by name and labels."""
    series = {name for metric in names.METRICS for name in metric.series} - set(names.CONFIG.series)
    of_the_scheduler = {
        name
        for metric in (
            names.REQUESTS_WAITING,
            names.REQUESTS_RUNNING,
            names.REQUESTS_ADMITTED,
            names.PASSED_OVER,
            names.SCHEDULING_SECONDS,
        )
        for name in metric.series
    }
    return {
        (name, frozenset(labels.items())): value
        for name in series - of_the_scheduler
        for labels, value in found.of(name)
    }


def test_counts_are_those_of_the_model(server):  # noqa: F811
    before = scrape(server.url)
    for _ in range(3):
        at_once(server, 10)
        time.sleep(1.0)  # the shortest time between two snapshots
    at_once(server, 1)
    figures = figures_between(before, scrape(server.url))
    loads = figures.loads
    assert loads is not None
    assert figures.config["engine"] == "vllm"
    assert len(loads.layers) == 4
    assert 20 <= loads.num_requests <= 31
    # every token has its four experts at every layer, and without a limit all of them run
    for layer in range(4):
        assert loads.tokens_L[layer] == loads.num_tokens
        assert loads.pairs_L[layer] == loads.kept_L[layer] == TOP_K * loads.num_tokens
        assert loads.asked_LD[layer].sum() == pytest.approx(TOP_K * loads.num_tokens)
    assert loads.drop_rate == 0.0
    assert loads.straggler_factor == loads.straggler_factor_asked >= 1.0
    assert loads.expert_peak_to_mean > 1.2


def test_single_requests_are_never_told(server):  # noqa: F811
    seen = []
    for _ in range(20):
        server.complete("What is told of me?", 4)
        found = of_loads(scrape(server.url))
        if not seen or found != seen[-1]:
            seen.append(found)
        time.sleep(0.06)
    requests = [found[(names.ROUTED_REQUESTS.name, frozenset())] for found in seen]
    assert len(seen) >= 2, "nothing was told of 20 requests"
    assert all(later - earlier >= 8 for earlier, later in pairwise(requests))


def test_top_sees_the_server(server):  # noqa: F811
    view = Watch(server.url).look()
    assert view.since_start.config["policy"] == "token_drop"
    assert view.since_start.least_requests == 8


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """A spool of our own behind the metrics of this process, which no engine writes to."""
    from evenmoe.serving.vllm import exporter

    earlier = tuple(exporter._collectors)  # there is one where a test before ran an engine in this process
    for collector in earlier:
        REGISTRY.unregister(collector)
    monkeypatch.setattr(exporter, "_collectors", [])
    monkeypatch.setattr(MultiProcessCollector, "collect", unwrap(MultiProcessCollector.collect))
    found = Spool(tmp_path)
    exporter.export_metrics(found)
    yield found
    for collector in exporter._collectors:
        REGISTRY.unregister(collector)
    for collector in earlier:
        REGISTRY.register(collector)


@pytest.mark.parametrize("servers", ["one", "several"])
def test_unconfigured_nothing_is_shown_and_configured_it_is(spool, servers, tmp_path_factory, monkeypatch):
    # vLLM's own route, in both of its ways to make a registry
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from vllm.entrypoints.serve.instrumentator import metrics

    if servers == "several":
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path_factory.mktemp("prometheus")))
    app = FastAPI()
    metrics.attach_router(app)
    client = TestClient(app)
    assert "evenmoe" not in client.get("/metrics").text
    write_config(ServingConfig(routing=RoutingConfig(num_devices=2)), spool)
    page = client.get("/metrics").text
    assert page.count("evenmoe_config_info{") == 1
    assert 'devices="2"' in page
