"""Scrape: what a server's `/metrics` said at one moment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from evenmoe.errors import EvenMoEError
from evenmoe.serving.observation.names import CONFIG, METRICS, Metric

_OURS = frozenset(name for metric in METRICS for name in metric.series)


class ScrapeError(EvenMoEError):
    """No metrics came from where they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """The samples of evenmoe's metrics. at_s: when they came, in seconds of a clock that never goes back."""

    url: str
    at_s: float
    samples: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]

    @property
    def is_of_evenmoe(self) -> bool:
        """Whether the server runs with evenmoe, and metrics switched on."""
        return CONFIG.name in self.samples

    def of(self, metric: Metric | str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Labels and value of each sample of a metric, or of one of a histogram's series. Nothing if not shown."""
        yield from self.samples.get(metric if isinstance(metric, str) else metric.name, ())

    def value(self, metric: Metric | str) -> float | None:
        """The sum over a metric's samples; None where it is not shown."""
        found = [value for _, value in self.of(metric)]
        return sum(found) if found else None


def metrics_address(url: str) -> str:
    """Where a server shows its metrics: `url` may be its root, its `/v1` or the page itself."""
    base = url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        base = f"http://{base}"
    return base if base.endswith("/metrics") else f"{base}/metrics"


def scrape(url: str, *, timeout_s: float = 10.0) -> Scrape:
    """Ask a server for its metrics, any server that shows Prometheus's text format; those of evenmoe are kept.

    Raises ScrapeError where nothing answers, or no metrics do.
    """
    address = metrics_address(url)
    try:
        with httpx2.Client(timeout=timeout_s, follow_redirects=True) as http:
            answer = http.get(address)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ScrapeError(f"no server answers at {address}: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        raise ScrapeError(
            f"{address} answers with HTTP {answer.status_code}: the server shows no metrics there"
        )
    return parse_scrape(answer.text, url=address, at_s=time.monotonic())


def parse_scrape(text: str, *, url: str, at_s: float) -> Scrape:
    """Read a page in Prometheus's text format. Raises ScrapeError for anything else."""
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in _OURS:
                    labels = {name: _printable(value) for name, value in sample.labels.items()}
                    samples.setdefault(sample.name, []).append((labels, float(sample.value)))
    except (ValueError, LookupError) as error:
        raise ScrapeError(f"{url} is no page of metrics: {error}") from error
    return Scrape(url=url, at_s=at_s, samples={name: tuple(found) for name, found in samples.items()})


def _printable(value: str) -> str:
    """A label without control characters: what a server says ends up in a terminal."""
    return "".join(character for character in value if character.isprintable())
