"""Less talk from lm-eval where evenmoe says it itself: progress is announced, options are checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import lm_eval.api.task


@contextmanager
def no_bars() -> Iterator[None]:
    """Without lm-eval's bar over the building of requests, which no option switches off."""
    before = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(before, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = before


@contextmanager
def no_hints(name: str) -> Iterator[None]:
    """Without the warnings of one of lm-eval's loggers."""
    talker = logging.getLogger(name)
    before = talker.level
    talker.setLevel(logging.ERROR)
    try:
        yield
    finally:
        talker.setLevel(before)
