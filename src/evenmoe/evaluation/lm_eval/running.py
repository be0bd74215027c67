"""BatchRunner: runs the batches of one kind of request in order, says how they were formed, and shows progress."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from evenmoe.evaluation.ledger import BatchLedger
from evenmoe.evaluation.lm_eval.batching import order_fingerprint

Progress = Callable[[int, int], None]
"""Called after each batch: requests done, requests in all."""

log = logging.getLogger(__name__)


class BatchRunner:
    """Batches of one task after the other, through a ledger.

    task: whose requests are running, or "". formed: how batches were formed since the task began, one entry per kind of
    request. progress: called after each batch, in place of lm-eval's bars.
    """

    def __init__(self, ledger: BatchLedger) -> None:
        self.ledger = ledger
        self.task = ""
        self.formed: list[dict[str, Any]] = []
        self.progress: Progress | None = None

    def begin(self, task: str) -> None:
        """Start a task: draws at random begin anew, as if it ran alone."""
        self.task, self.formed = task, []
        self.ledger.restart()

    def run(
        self,
        kind: str,
        batches: Sequence[Sequence[Any]],
        answer: Callable[[int], list[Any]],
        take: Callable[[int, list[Any]], int],
        *,
        num_requests: int,
        how: Mapping[str, Any],
        shows_bar: bool,
    ) -> None:
        """Run every batch once, in order.

        batches: what is in each, as plain data; their fingerprint names them in the journal.
        answer: gives the answers of a batch by its number. take: is handed them, and returns how many requests are
        answered so far. how: what else to say of how batches were formed.
        """
        fingerprint, num_rows = order_fingerprint(batches), sum(map(len, batches))
        self.formed.append(
            {
                "requests": kind,
                "num_requests": num_requests,
                "num_rows": num_rows,
                "num_batches": len(batches),
                "rows_in_last": len(batches[-1]) if batches else 0,
                "sha256": fingerprint,
                **how,
            }
        )
        if how["num_cut_to_fit"]:
            log.warning("%s: %d of %d rows cut on the left to fit", kind, how["num_cut_to_fit"], num_rows)
        with tqdm(total=num_requests, desc=f"Running {kind}", disable=not shows_bar) as bar:
            for index in range(len(batches)):
                key = f"{self.task}/{kind}/{index}/{fingerprint[:16]}"
                done = take(index, self.ledger.run(key, lambda index=index: answer(index)))  # type: ignore[misc]
                bar.update(done - bar.n)
                if self.progress is not None:
                    self.progress(done, num_requests)
