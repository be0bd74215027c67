"""Looking at a running server from outside, through its `/metrics`."""

from evenmoe.serving.monitor.figures import LoadFigures, SchedulingFigures, ServerFigures, figures_between
from evenmoe.serving.monitor.scrape import Scrape, ScrapeError, metrics_address, scrape

__all__ = [
    "LoadFigures",
    "SchedulingFigures",
    "Scrape",
    "ScrapeError",
    "ServerFigures",
    "figures_between",
    "metrics_address",
    "scrape",
]
