"""Asking a server for its metrics: what is kept, and what each failure is called."""

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from evenmoe.errors import EvenMoEError
from evenmoe.serving.monitor import ScrapeError, metrics_address, scrape
from evenmoe.serving.monitor.scrape import parse_scrape
from evenmoe.serving.observation import names
from evenmoe.serving.observation.collector import metrics_page
from tests.serving.monitor.metrics_server import MetricsServer
from tests.serving.observation.test_collector import full_source


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8000/",
        "http://127.0.0.1:8000/v1/",
        "http://127.0.0.1:8000/metrics",
    ],
)
def test_an_address_in_any_form(url):
    assert metrics_address(url) == "http://127.0.0.1:8000/metrics"
    assert metrics_address(url.replace("http", "https")).endswith("127.0.0.1:8000/metrics")


def test_what_a_server_shows():
    with MetricsServer(metrics_page(full_source())).running() as url:
        found = scrape(url)
    assert found.is_of_evenmoe
    assert found.value(names.ROUTED_REQUESTS) == 8
    assert found.value(names.PAIRS_ASKED) == 20 + 20
    assert found.value("evenmoe_passed_over_steps_sum") == 21
    assert {labels["layer"]: value for labels, value in found.of(names.PAIRS_KEPT)} == {"0": 12.0, "1": 16.0}


def test_another_server_shows_none_of_ours():
    registry = CollectorRegistry()
    Counter("vllm:tokens", "Another's.", registry=registry).inc()
    with MetricsServer(generate_latest(registry)).running() as url:
        found = scrape(url)
    assert not found.is_of_evenmoe
    assert found.samples == {}
    assert found.value(names.ROUTED_REQUESTS) is None


def test_nothing_there():
    with MetricsServer().running() as url:
        pass
    with pytest.raises(ScrapeError, match=f"no server answers at {url}/metrics"):
        scrape(url)
    assert issubclass(ScrapeError, EvenMoEError)


def test_no_metrics_there():
    with MetricsServer(status=503).running() as url, pytest.raises(ScrapeError, match="HTTP 503"):
        scrape(url)


@pytest.mark.parametrize(
    "page", [b"<html>hello</html>", b"evenmoe_routed_requests_total many", b'a{b="c} 1', b"\xff\xfe{"]
)
def test_a_page_that_is_no_metrics(page):
    with MetricsServer(page).running() as url, pytest.raises(ScrapeError, match="no page of metrics"):
        scrape(url)


def test_a_silent_server_is_given_up():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(ScrapeError, match="no server answers"):
            scrape(url, timeout_s=0.2)


def test_an_empty_page_is_of_nobody():
    assert not parse_scrape("", url="x", at_s=0.0).is_of_evenmoe


def test_a_label_brings_no_control_characters_to_the_terminal():
    page = f'{names.CONFIG.name}{{policy="\x1b]0;mine\x07fill"}} 1.0\n'
    ((labels, _),) = parse_scrape(page, url="x", at_s=0.0).of(names.CONFIG)
    assert labels["policy"] == "]0;minefill"
