"""BatchLedger: batches are run once. What a journal has of an interrupted run is taken from there, loads included."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evenmoe.errors import FileFormatError
from evenmoe.evaluation.checkpoints import weights_mark
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.loads import ExpertLoads, pack_loads, sum_loads, unpack_loads
from evenmoe.models.attached import Attached
from evenmoe.simulation.studies.journal import Journal

JOURNAL_NAME = "batches.partial.jsonl"

log = logging.getLogger(__name__)

Answers = list[Any]
"""What the rows of a batch gave, as plain data that JSON holds exactly."""


class BatchLedger:
    """Runs batches in order, and sums their loads one batch after the other.

    attached: whose loads are counted; None for a plain model, which has none.
    journal: finished batches; None keeps none.

    A resumed run gives the same bytes as an uninterrupted one: both add the loads up by batch, and policies that draw
    at random draw by the number of the forward, which a finished batch brings along.
    """

    def __init__(self, attached: Attached | None = None, journal: Journal | None = None) -> None:
        self._attached, self._journal = attached, journal
        self.loads: ExpertLoads | None = None
        self.num_resumed, self.seconds_resumed = 0, 0.0
        """Batches that were taken from the journal, and what they took when they ran."""

    def restart(self) -> None:
        """Number forwards anew: what runs next draws as if it ran alone."""
        if self._attached is not None:
            self._attached.num_forwards = 0

    def run(self, key: str, answer: Callable[[], Answers]) -> Answers:
        """Return the answers of the batch `key`, from the journal or by calling `answer`.

        key: names the batch and all that it depends on, beside what the journal's header says.
        Raises FileFormatError for a row of the journal that is not a finished batch.
        """
        if self._journal is not None and key in self._journal:
            row, resumed = self._journal[key], True
        else:
            row, resumed = self._measured(answer), False
            if self._journal is not None:
                self._journal.add(key, row)
        try:
            answers: Answers = row["answers"]
            self._add(row)
            if resumed:
                self.num_resumed += 1
                self.seconds_resumed += row["seconds"]
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"batch {key!r} of the journal is not a finished batch: {error}") from error
        return answers

    def _measured(self, answer: Callable[[], Answers]) -> dict[str, Any]:
        if self._attached is not None:
            self._attached.reset_loads()
        start = time.perf_counter()
        answers = answer()
        row: dict[str, Any] = {"answers": answers, "seconds": time.perf_counter() - start}
        if self._attached is not None:
            row["num_forwards"] = self._attached.num_forwards
            row["loads"] = base64.b64encode(pack_loads(self._attached.loads)).decode("ascii")
        return row

    def _add(self, row: Mapping[str, Any]) -> None:
        if self._attached is not None:
            self._attached.num_forwards = row["num_forwards"]
            loads = unpack_loads(base64.b64decode(row["loads"]))
            self.loads = loads if self.loads is None else sum_loads([self.loads, loads])


def open_journal(config: EvalConfig, out: Path, versions: Mapping[str, str]) -> Journal:
    """The journal of an evaluation's batches in `out`, which other settings, versions or weights must not share.

    Tasks are no part of that: more tasks go on from fewer. Raises ConfigError where `out` has unfinished batches of
    another evaluation, FileFormatError where the file is no journal.
    """
    settings = config.model_dump(mode="json", exclude={"tasks", "suite"})
    header = settings | {"versions": dict(versions), "weights": weights_mark(config.model)}
    journal = Journal(out / JOURNAL_NAME, header)
    if len(journal):
        log.info("%s: going on after %d finished batches", out, len(journal))
    return journal
