"""Strategies that add one request at a time, the one that scores least. Shape letters: W requests, X entries.

l is the load of the batch so far, v that of a candidate. Everything is said in products between requests, so that a
step costs one row of products whatever the length of the vectors: ||l + v||^2 / 2 = ||l||^2 / 2 + l.v + ||v||^2 / 2,
the first term the same for all candidates; the variance is the same of vectors less their mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import SHORT, Floats, Window, age_terms

_MOST_AT_ONCE = 1 << 21
"""Multiplications of one table of products; above it those that are kept from one decision to the next are used."""


def greedy_variance(window: Window, picking: Picking) -> None:
    """Add the candidate with the least Var(l + v)."""
    _grow(picking, *_scores(window, picking, centred=True, own_share=0.5))


def norm_minimizing(window: Window, picking: Picking) -> None:
    """Add the candidate with the least ||l + v||^2."""
    _grow(picking, *_scores(window, picking, centred=False, own_share=0.5))


def greedy_dot_product(window: Window, picking: Picking) -> None:
    """Add the candidate with the least v . l."""
    _grow(picking, *_scores(window, picking, centred=False, own_share=0.0))


def power_of_d(
    window: Window, picking: Picking, rng: np.random.Generator, num_choices: int, by_dot_product: bool = False
) -> None:
    """At each step look at `num_choices` random candidates, and add the best: least variance, or dot product.

    A sample is the front of the candidates' list after the first steps of a Fisher-Yates shuffle.
    """
    own_share = 0.0 if by_dot_product else 0.5
    score_W, row_of = _scores(window, picking, centred=not by_dot_product, own_share=own_share)
    waiting = picking.open()
    most = min(num_choices, len(waiting))
    for draws in rng.random((picking.room, most)).tolist():
        left = len(waiting)
        if not left:
            break
        for place, draw in enumerate(draws[:left]):
            other = place + int(draw * (left - place))
            waiting[place], waiting[other] = waiting[other], waiting[place]
        index = picking.take(min(waiting[:most], key=score_W.item))
        score_W += row_of(index)
        if picking.limits.tokens_W is None:
            waiting.remove(index)
        else:
            waiting = [other for other in waiting if picking.fits(other)]


def _grow(picking: Picking, score_W: Floats, row_of: Callable[[int], Floats]) -> None:
    """Take whoever scores least, and add its products to the scores, until the batch is full."""
    picking.close(score_W)
    while picking.has_room:
        score_W += row_of(picking.take_least(score_W))


def _scores(
    window: Window, picking: Picking, *, centred: bool, own_share: float
) -> tuple[Floats, Callable[[int], Floats]]:
    """[W] each candidate's score beside the batch so far, and what gives a request's products with all others.

    own_share: how much of a candidate's product with itself is in its score.
    Short windows make one table of products: cheaper than a row at a time, unless vectors are long and products kept.
    """
    row_of: Callable[[int], Floats] = window.centred_dots if centred else window.dots
    all_at_once = len(window) ** 2 * window.length <= _MOST_AT_ONCE or not window.keep_products
    if len(window) <= SHORT and all_at_once:
        dot_WW = window.all_dots(centred=centred)
        row_of, own_W = list(dot_WW).__getitem__, dot_WW.diagonal()
    else:
        own_W = window.variation_W if centred else window.norm_W
    scale = float(window.norm_W.max()) * picking.limits.batch_size
    score_W = own_share * own_W
    if picking.base_X is not None:
        score_W += window.dots_with(picking.base_X, centred=centred)
        scale += scale**0.5 * float(picking.base_X @ picking.base_X) ** 0.5
    score_W += age_terms(len(window), scale)
    for index in picking.picked:
        score_W += row_of(index)
    return score_W, row_of
