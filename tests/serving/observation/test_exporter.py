"""The exporter in a process like vLLM's HTTP server, alone or one of several that share their counts."""

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from evenmoe.serving.observation.source import write_config
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.vllm import exporter
from tests.serving.observation.test_collector import CONFIG


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """What is exported, until the test ends."""
    monkeypatch.setattr(exporter, "_collectors", [])
    monkeypatch.setattr(MultiProcessCollector, "collect", MultiProcessCollector.collect)
    found = Spool(tmp_path)
    exporter.export_metrics(found)
    exporter.export_metrics(found)  # vLLM may load plug-ins twice
    yield found
    for collector in exporter._collectors:
        REGISTRY.unregister(collector)


def shared_by_several(folder):
    """A page as servers that share their counts make it for each scrape."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return generate_latest(registry)


def test_one_http_server(spool):
    assert b"evenmoe" not in generate_latest(REGISTRY)
    write_config(CONFIG, spool)
    assert generate_latest(REGISTRY).count(b"evenmoe_config_info{") == 1


def test_several_http_servers(spool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    assert shared_by_several(folder) == b""
    write_config(CONFIG, spool)
    assert shared_by_several(folder).count(b"evenmoe_config_info{") == 1
    assert shared_by_several(folder).count(b"evenmoe_config_info{") == 1
