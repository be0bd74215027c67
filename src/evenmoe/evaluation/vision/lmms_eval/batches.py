"""How the requests of a run were put into batches, as data for its result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

ORDER = "task by task as lmms-eval gives them, documents in their order, never two tasks in one batch"


class BatchLog:
    """Every request that was run, in order, and the batches that they made."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._num_batches = 0
        self._rows: dict[str, int] = {}
        self._digest = hashlib.sha256()

    def add(self, kind: str, task: str, requests: Sequence[Any]) -> None:
        """Note one task's requests of one kind ("generate_until", "loglikelihood"), run in the given order."""
        name = f"{task}, {kind}"
        self._rows[name] = self._rows.get(name, 0) + len(requests)
        self._num_batches += -(-len(requests) // self._size)
        for request in requests:
            self._digest.update(f"{kind}\t{task}\t{request.doc_id}\t{request.idx}\n".encode())

    def describe(self) -> dict[str, Any]:
        """Return size, order, number and rows of the batches, and a fingerprint of what ran in which order."""
        return {
            "size": self._size,
            "order": ORDER,
            "num_batches": self._num_batches,
            "rows": dict(self._rows),
            "devices": "contiguous shares of each batch's rows",
            "fingerprint": self._digest.hexdigest(),
        }
