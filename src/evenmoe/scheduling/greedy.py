"""Strategies that add one request at a time, the one that scores least. Shape letters: W requests, X entries.

l is the load of the batch so far, v that of a candidate. Everything is said in products between requests, so that a
step costs one row of products whatever the length of the vectors: ||l + v||^2 = ||l||^2 + 2 l.v + ||v||^2, the
first term the same for all candidates; the variance is the same of vectors less their mean.
"""

from __future__ import annotations

import numpy as np

from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Window

_RELATIVE_TOLERANCE = 1e-12
"""Scores this near, beside the products they are made of, are ties: rounding must not decide over age."""


def tolerance_of(window: Window, picking: Picking) -> float:
    """The difference under which two scores are a tie."""
    largest = float(window.norm_W.max(initial=0.0))
    return _RELATIVE_TOLERANCE * largest * (len(picking.picked) + picking.limits.batch_size)


def greedy_variance(window: Window, picking: Picking) -> None:
    """Add the candidate with the least Var(l + v)."""
    total_W = window.total_W
    _grow_by_norm(window, picking, window.variation_W, total_W / window.length, total_W)


def norm_minimizing(window: Window, picking: Picking) -> None:
    """Add the candidate with the least ||l + v||^2."""
    _grow_by_norm(window, picking, window.norm_W, None, None)


def _grow_by_norm(
    window: Window, picking: Picking, score_W: Floats, mean_W: Floats | None, total_W: Floats | None
) -> None:
    tolerance = tolerance_of(window, picking)

    def add(index: int) -> None:
        dot_W = window.dots(index)
        if mean_W is not None and total_W is not None:
            dot_W -= mean_W[index] * total_W
        dot_W *= 2.0
        np.add(score_W, dot_W, out=score_W)

    for index in picking.picked:
        add(index)
    while picking.has_room:
        add(picking.take_least(score_W, tolerance))


def greedy_dot_product(window: Window, picking: Picking) -> None:
    """Add the candidate with the least v . l."""
    tolerance = tolerance_of(window, picking)
    score_W = np.zeros(len(window))
    for index in picking.picked:
        score_W += window.dots(index)
    while picking.has_room:
        score_W += window.dots(picking.take_least(score_W, tolerance))


def power_of_d(
    window: Window, picking: Picking, rng: np.random.Generator, num_choices: int, by_dot_product: bool = False
) -> None:
    """At each step look at `num_choices` random candidates, and add the best: least variance, or dot product."""
    tolerance = tolerance_of(window, picking)
    scale, score_W = (1.0, np.zeros(len(window))) if by_dot_product else (2.0, window.variation_W)
    total_W = window.total_W
    mean_W = np.zeros(len(window)) if by_dot_product else total_W / window.length

    def add(index: int) -> None:
        nonlocal score_W
        score_W += scale * (window.dots(index) - mean_W[index] * total_W)

    for index in picking.picked:
        add(index)
    while picking.has_room:
        sampled_W = np.full(len(window), np.inf)
        open_N = np.flatnonzero(picking.is_open_W)
        if len(open_N) > num_choices:
            open_N = open_N[np.argpartition(rng.random(len(open_N)), num_choices - 1)[:num_choices]]
        sampled_W[open_N] = score_W[open_N]
        add(picking.take_least(sampled_W, tolerance))
