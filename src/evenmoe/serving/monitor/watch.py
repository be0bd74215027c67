"""Watch: a server looked at again and again, and what can be said of it each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from evenmoe.serving.monitor.figures import ServerFigures, figures_between
from evenmoe.serving.monitor.scrape import Scrape, ScrapeError, scrape


@dataclass(frozen=True, kw_only=True)
class View:
    """What is known of a server at one look.

    since_start: all that it has told. recent: since the look before; the same as since_start at the first.
    told: the last time its loads moved, from the look before that move; None where they have not moved while watched.
    told_age_s: seconds since then. gone: why it does not answer any more; the figures are then of the last answer.
    """

    url: str
    since_start: ServerFigures
    recent: ServerFigures
    told: ServerFigures | None = None
    told_age_s: float = 0.0
    gone: str | None = None

    @property
    def shown(self) -> ServerFigures:
        """The figures whose loads are the latest that may be seen."""
        return self.told or self.since_start

    def as_dict(self) -> dict[str, Any]:
        """The view as data."""
        return {
            "url": self.url,
            "gone": self.gone,
            "since_start": self.since_start.as_dict(),
            "told": None if self.told is None else self.told.as_dict(),
            "told_age_s": self.told_age_s,
            "recent": self.recent.as_dict(),
        }


class Watch:
    """Looks at the server at `url`, which tells its loads only now and then, as sums over many requests."""

    def __init__(self, url: str, ask: Callable[[str], Scrape] = scrape) -> None:
        self._url, self._ask = url, ask
        self._view: View | None = None
        self._last: Scrape | None = None
        self._moved: Scrape | None = None
        """The scrape at which loads had moved last."""

    def look(self) -> View:
        """Ask the server. Raises ScrapeError where it does not answer the first time, or is without evenmoe then."""
        try:
            self._view = self._seen(self._ask(self._url))
        except ScrapeError as error:
            if self._view is None:
                raise
            return replace(self._view, gone=str(error))
        return self._view

    def _seen(self, now: Scrape) -> View:
        since_start = figures_between(None, now)
        if self._last is None or self._moved is None:
            self._last = self._moved = now
            return View(url=self._url, since_start=since_start, recent=since_start)
        recent, told = figures_between(self._last, now), figures_between(self._moved, now)
        self._last = now
        last_told = None if self._view is None or told.restarted else self._view.told
        if told.loads is not None or told.restarted:
            self._moved = now
        return View(
            url=self._url,
            since_start=since_start,
            recent=recent,
            told=last_told if told.loads is None else told,
            told_age_s=now.at_s - self._moved.at_s,
        )
