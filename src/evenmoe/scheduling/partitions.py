"""Strategies that share the window out over several batches, and run the one with the oldest request.

Shape letters: W requests, M batches, N nodes, P pairs.
"""

from __future__ import annotations

import heapq

import numpy as np

from evenmoe.scheduling.ordered import by_total
from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Ints, Window

_RELATIVE_TOLERANCE = 1e-12
"""Variances this near, beside the products they are made of, are ties: rounding must not decide."""

_BLOCK = 32
"""Requests dealt at a time."""

_CACHED = 128
"""Pairs differenced at a time, so that what is at hand stays in the cache."""


def run_batch_of_oldest(picking: Picking, members: list[int], window: Window) -> None:
    """Take the members of one batch by age, then, where it is not full, whoever is oldest."""
    picking.take_in_order(sorted(members))
    picking.take_in_order(range(len(window)))


def lpt_balanced(window: Window, picking: Picking) -> None:
    """Largest total first, each to the batch with room where the variance of the load vector is least after it.

    There are ceil(W / batch size) batches; ties go to the batch opened first. Requests are dealt in blocks: what a
    batch has in common with a request is a product with the batch's load from blocks before, and with those of its own.
    """
    size, num_waiting = picking.limits.batch_size, len(window)
    members: list[list[int]] = [[] for _ in range(-(-num_waiting // size))]
    variation_M = [0.0] * len(members)
    load_MX = np.zeros((len(members), window.length))
    tolerance = _RELATIVE_TOLERANCE * float(window.norm_W.max()) * size * size
    order = by_total(window)
    for start in range(0, num_waiting, _BLOCK):
        block = order[start : start + _BLOCK]
        load_NX = window.centred_loads(block)
        dot_NN = np.dot(load_NX, load_NX.T)
        overlap_MN = np.dot(load_MX, load_NX.T) if start else np.zeros((len(members), len(block)))
        dealt_N = _deal(block.tolist(), dot_NN, list(overlap_MN), members, variation_M, size, tolerance)
        if start + _BLOCK < num_waiting:
            for batch, load_X in zip(dealt_N, load_NX, strict=True):
                load_MX[batch] += load_X
    run_batch_of_oldest(picking, next(group for group in members if 0 in group), window)


def _deal(
    block: list[int],
    dot_NN: Floats,
    overlaps: list[Floats],
    members: list[list[int]],
    variation_M: list[float],
    size: int,
    tolerance: float,
) -> list[int]:
    """Put each of the block where the variance is least; which batch each went to."""
    dealt: list[int] = []
    with_room = [batch for batch, group in enumerate(members) if len(group) < size]
    for place, (index, own, dot_N) in enumerate(zip(block, dot_NN.diagonal().tolist(), dot_NN, strict=True)):
        least, chosen = np.inf, with_room[0]
        for batch in with_room:
            after = variation_M[batch] + 2.0 * overlaps[batch].item(place)
            if after < least - tolerance:
                least, chosen = after, batch
        variation_M[chosen] = least + own
        overlaps[chosen] += dot_N
        dealt.append(chosen)
        members[chosen].append(index)
        if len(members[chosen]) == size:
            with_room.remove(chosen)
    return dealt


def karmarkar_karp(window: Window, picking: Picking) -> None:
    """Balanced largest differencing on total load: M batches of equal size whose totals are as equal as may be.

    Requests from the largest total down are dealt in tuples of M, one per batch. The two tuples with the widest
    spread of totals are merged, the largest part of one with the smallest of the other, until one tuple is left.
    """
    size, num_waiting = picking.limits.batch_size, len(window)
    num_batches = -(-num_waiting // size)
    order, total_W = by_total(window).tolist(), window.total_W.tolist()
    heap: list[tuple[float, int, list[tuple[float, list[int]]]]] = []
    for number, start in enumerate(range(0, num_waiting, num_batches)):
        parts = [(total_W[index], [index]) for index in order[start : start + num_batches]]
        parts += [(0.0, []) for _ in range(num_batches - len(parts))]
        heapq.heappush(heap, (parts[-1][0] - parts[0][0], number, parts))
    number = len(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap)[2], heapq.heappop(heap)[2]
        merged = [
            (one[0] + other[0], one[1] + other[1]) for one, other in zip(first, reversed(second), strict=True)
        ]
        merged.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (merged[-1][0] - merged[0][0], number, merged))
        number += 1
    run_batch_of_oldest(picking, next(group for _, group in heap[0][2] if 0 in group), window)


def differencing(window: Window, picking: Picking) -> None:
    """Multi-dimensional Karmarkar-Karp: the heaviest vector and the one most like it go to opposite halves.

    Their difference stands for the pair, and so on until one vector is left: two halves of equal size. The half with
    the oldest request is halved again until it is a batch. Of the window the oldest batch_size * 2^k requests take
    part, as many as there are.
    """
    size = picking.limits.batch_size
    taking_part = size
    while taking_part * 2 <= len(window):
        taking_part *= 2
    members = list(range(min(taking_part, len(window))))
    if taking_part > size:
        dot_RR, row_W = window.table_of_dots()
        while len(members) > size:
            members = [members[index] for index in _half_with_first(dot_RR, row_W[members])]
    run_batch_of_oldest(picking, members, window)


def _half_with_first(dot_RR: Floats, row_N: Ints) -> list[int]:
    """Of N = 2^k n vectors given by their products, the half that holds vector 0, ascending; row_N: their rows.

    A node is a difference of two nodes of one round before; its vector is taken with the sign that makes the pair
    alike, so a node that points the other way joins with its sides exchanged.
    """
    num_vectors = len(row_N)
    sides: list[tuple[list[int], list[int]]] = [([index], []) for index in range(num_vectors)]
    while True:
        left_P, right_P, dot_P = _pairs(dot_RR, row_N, are_loads=len(sides) == num_vectors)
        joined: list[tuple[list[int], list[int]]] = []
        for left, right, dot in zip(left_P, right_P, dot_P, strict=True):
            (plus, minus), (other_plus, other_minus) = sides[left], sides[right]
            if dot < 0:
                joined.append((plus + other_plus, minus + other_minus))
            else:
                joined.append((plus + other_minus, minus + other_plus))
        sides = joined
        if len(sides) == 1:
            return sorted(next(side for side in sides[0] if 0 in side))
        dot_RR = _differences(dot_RR, row_N.take(left_P), row_N.take(right_P), dot_P)
        if len(sides) % 2:
            # an empty node: after the first round every node has as many on one side as on the other
            sides.append(([], []))
            dot_RR = np.pad(dot_RR, (0, 1))
        row_N = np.arange(len(sides))


def _differences(dot_RR: Floats, left_P: Ints, right_P: Ints, dot_P: list[float]) -> Floats:
    """[P, P]: the products of left - right with one another; left + right where their product is negative."""
    sign_P = np.where(np.array(dot_P) < 0, -1.0, 1.0)
    are_all_alike = min(dot_P) >= 0
    parts = []
    for start in range(0, len(left_P), _CACHED):
        block = slice(start, start + _CACHED)
        step_NR, other_NR = dot_RR.take(left_P[block], axis=0), dot_RR.take(right_P[block], axis=0)
        if not are_all_alike:
            other_NR *= sign_P[block, None]
        step_NR -= other_NR
        dot_NP, other_NP = step_NR.take(left_P, axis=1), step_NR.take(right_P, axis=1)
        if not are_all_alike:
            other_NP *= sign_P
        dot_NP -= other_NP
        parts.append(dot_NP)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _pairs(dot_RR: Floats, row_N: Ints, are_loads: bool) -> tuple[list[int], list[int], list[float]]:
    """Pair all nodes: again and again the heaviest left, with the one most like it (largest |product|), ties by age.

    are_loads: the nodes are load vectors, whose products are all positive, not differences of them.
    """
    if len(row_N) == 2:
        return [0], [1], [dot_RR.item(row_N.item(0), row_N.item(1))]
    likeness_RR = dot_RR if are_loads else np.abs(dot_RR)
    are_all = len(row_N) == len(dot_RR) and bool((row_N[1:] > row_N[:-1]).all())  # every row, in its place
    rows, is_taken, taken_N = row_N.tolist(), [False] * len(row_N), np.zeros(len(row_N))
    left_P: list[int] = []
    right_P: list[int] = []
    for node in (-dot_RR.diagonal().take(row_N)).argsort(kind="stable").tolist():
        if is_taken[node]:
            continue
        taken_N[node] = np.inf
        likeness_N = likeness_RR[rows[node]] if are_all else likeness_RR[rows[node]].take(row_N)
        partner = int((likeness_N - taken_N).argmax())
        taken_N[partner] = np.inf
        is_taken[node] = is_taken[partner] = True
        left_P.append(node)
        right_P.append(partner)
    return left_P, right_P, dot_RR[row_N.take(left_P), row_N.take(right_P)].tolist()
