"""Which windows share a batch, and which virtual device each row of it joins.

Dropping makes one request's output depend on its batch, so the arrangement is part of every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from evenmoe.errors import ConfigError, check_choice
from evenmoe.evaluation.texts import Window

Mix = Literal["mixed", "by-domain"]
MIXES: tuple[str, ...] = get_args(Mix)


MOST_WINDOWS = 96
MOST_ROWS = 32


def plan_batches(fitting: int, num_windows: int | None, batch_size: int | None) -> tuple[int, int]:
    """How many windows to run, and how many per batch, where the user left one or both open (None).

    Windows: as many as fit in the text, at most MOST_WINDOWS, in whole batches. Rows: at most MOST_ROWS.
    Raises ConfigError if the text is too short for one batch.
    """
    if num_windows is None:
        batch_size = batch_size or min(MOST_ROWS, max(fitting, 1))
        num_windows = min(MOST_WINDOWS, fitting) // batch_size * batch_size
        if num_windows == 0:
            allowed = f"at least {batch_size}, but {fitting} fit in the text; ask for shorter ones or give more text"
            raise ConfigError("windows", fitting, allowed)
    if batch_size is None:
        batch_size = max(rows for rows in range(1, MOST_ROWS + 1) if num_windows % rows == 0)
    return num_windows, batch_size


def make_batches(windows: Sequence[Window], batch_size: int, mix: str, seed: int) -> list[list[Window]]:
    """Batches of `batch_size` rows; rows go to devices in order, so neighbours in a batch share a device.

    "mixed": a seeded shuffle, so that batch and device both see a mix of domains. "by-domain": the same
    batches with their rows sorted by domain, so that a device sees as few domains as possible.
    Raises ConfigError for another `mix`, and unless the windows fill whole batches: a smaller last batch would have
    a capacity of its own.
    """
    check_choice("mix", mix, MIXES)
    if batch_size < 1 or len(windows) % batch_size:
        raise ConfigError("batch_size", batch_size, f"a divisor of the {len(windows)} windows")
    order = np.random.default_rng(seed).permutation(len(windows))
    batches = [[windows[i] for i in rows] for rows in order.reshape(-1, batch_size)]
    if mix == "by-domain":
        batches = [sorted(batch, key=lambda window: window.domain) for batch in batches]
    return batches
