"""Strategies that add one request at a time, the one that scores least. Shape letters: W requests, X entries.

l is the load of the batch so far, v that of a candidate. Everything is said in products between requests, so that a
step costs one row of products whatever the length of the vectors: ||l + v||^2 / 2 = ||l||^2 / 2 + l.v + ||v||^2 / 2,
the first term the same for all candidates; the variance is the same of vectors less their mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Window

_RELATIVE_TOLERANCE = 1e-12
"""Scores this near, beside the products they are made of, are ties: rounding must not decide over age."""

_SHORT = 128
"""Up to this length of the window, one table of products is cheaper than a row at a time."""


def tolerance_of(window: Window, picking: Picking) -> float:
    """The difference under which two scores are a tie."""
    largest = float(window.norm_W.max(initial=0.0))
    return _RELATIVE_TOLERANCE * largest * (len(picking.picked) + picking.limits.batch_size)


def greedy_variance(window: Window, picking: Picking) -> None:
    """Add the candidate with the least Var(l + v)."""
    _grow(window, picking, 0.5 * window.variation_W, _rows(window, centred=True))


def norm_minimizing(window: Window, picking: Picking) -> None:
    """Add the candidate with the least ||l + v||^2."""
    _grow(window, picking, 0.5 * window.norm_W, _rows(window))


def greedy_dot_product(window: Window, picking: Picking) -> None:
    """Add the candidate with the least v . l."""
    _grow(window, picking, np.zeros(len(window)), _rows(window))


def power_of_d(
    window: Window, picking: Picking, rng: np.random.Generator, num_choices: int, by_dot_product: bool = False
) -> None:
    """At each step look at `num_choices` random candidates, and add the best: least variance, or dot product."""
    tolerance = tolerance_of(window, picking)
    score_W = np.zeros(len(window)) if by_dot_product else 0.5 * window.variation_W
    row_of = _rows(window, centred=not by_dot_product)
    for index in picking.picked:
        score_W += row_of(index)
    picking.close(score_W)
    last = min(num_choices, len(window) - 1)
    while picking.has_room:
        draw_W = rng.random(len(window))
        draw_W[~picking.is_open_W] = 2.0
        sampled_W = np.full(len(window), np.inf)
        sampled_D = draw_W.argpartition(last)[:num_choices]
        sampled_W[sampled_D] = score_W[sampled_D]
        score_W += row_of(picking.take_least(sampled_W, tolerance))
        picking.close(score_W)


def _grow(window: Window, picking: Picking, score_W: Floats, row_of: Callable[[int], Floats]) -> None:
    """Take whoever scores least, and add its products to the scores, until the batch is full."""
    tolerance = tolerance_of(window, picking)
    for index in picking.picked:
        score_W += row_of(index)
    picking.close(score_W)
    while picking.has_room:
        score_W += row_of(picking.take_least(score_W, tolerance))


def _rows(window: Window, centred: bool = False) -> Callable[[int], Floats]:
    """What gives a request's products with all: from a table made now where the window is short."""
    if len(window) > _SHORT:
        return window.centred_dots if centred else window.dots
    dot_WW = window.all_dots()
    if centred:
        total_W = window.total_W
        dot_WW -= np.multiply.outer(total_W / window.length, total_W)
    return dot_WW.__getitem__
