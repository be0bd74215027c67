"""Strategies that share the window out over several batches, and run the one with the oldest request.

Shape letters: W requests, M batches, N nodes, P pairs.
"""

from __future__ import annotations

import heapq

import numpy as np

from evenmoe.scheduling.ordered import by_total
from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Window


def run_batch_of_oldest(picking: Picking, members: list[int], window: Window) -> None:
    """Take the members of one batch by age, then, where it is not full, whoever is oldest."""
    picking.take_in_order(sorted(members))
    picking.take_in_order(range(len(window)))


def lpt_balanced(window: Window, picking: Picking) -> None:
    """Largest total first, each to the batch with room where the variance of the load vector is least after it.

    There are ceil(W / batch size) batches; ties go to the batch opened first.
    """
    size, num_waiting = picking.limits.batch_size, len(window)
    num_batches = -(-num_waiting // size)
    members: list[list[int]] = [[] for _ in range(num_batches)]
    overlap_MW = np.zeros((num_batches, num_waiting))
    variation_M = [0.0] * num_batches
    total_W, own_W = window.total_W, window.variation_W
    tolerance = 1e-12 * float(window.norm_W.max(initial=0.0)) * size * size
    for index in by_total(window).tolist():
        column = overlap_MW[:, index].tolist()
        after = [
            variation + 2 * overlap if len(group) < size else np.inf
            for variation, overlap, group in zip(variation_M, column, members, strict=True)
        ]
        least = min(after) + tolerance
        batch = next(number for number, value in enumerate(after) if value <= least)
        variation_M[batch] = after[batch] + float(own_W[index])
        overlap_MW[batch] += window.dots(index) - (total_W[index] / window.length) * total_W
        members[batch].append(index)
    run_batch_of_oldest(picking, next(group for group in members if 0 in group), window)


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
        dot_NN = window.all_dots()[:taking_part, :taking_part]
        while len(members) > size:
            half = _half_with_first(dot_NN)
            members = [members[index] for index in half]
            dot_NN = dot_NN[np.ix_(half, half)]
    run_batch_of_oldest(picking, members, window)


def _half_with_first(dot_NN: Floats) -> list[int]:
    """Of N = 2^k n vectors given by their products, the half that holds vector 0, ascending.

    A node is a difference of two nodes of one round before; its vector is taken with the sign that makes the pair
    alike, so a node that points the other way joins with its sides exchanged.
    """
    sides: list[tuple[list[int], list[int]]] = [([index], []) for index in range(len(dot_NN))]
    while len(sides) > 1:
        if (
            len(sides) % 2
        ):  # an empty node: after the first round every node has as many on one side as on the other
            sides.append(([], []))
            dot_NN = np.pad(dot_NN, (0, 1))
        left_P, right_P, dot_P = _pairs(dot_NN)
        sign_P = np.where(np.asarray(dot_P) < 0, -1.0, 1.0)
        joined: list[tuple[list[int], list[int]]] = []
        for left, right, dot in zip(left_P, right_P, dot_P, strict=True):
            (plus, minus), (other_plus, other_minus) = sides[left], sides[right]
            if dot < 0:
                joined.append((plus + other_plus, minus + other_minus))
            else:
                joined.append((plus + other_minus, minus + other_plus))
        sides = joined
        step_PN = dot_NN[left_P] - sign_P[:, None] * dot_NN[right_P]
        dot_NN = step_PN[:, left_P] - sign_P * step_PN[:, right_P]
    return sorted(next(side for side in sides[0] if 0 in side))


def _pairs(dot_NN: Floats) -> tuple[list[int], list[int], list[float]]:
    """Pair all nodes: again and again the heaviest left, with the one most like it (largest |product|), ties by age."""
    likeness_NN = np.abs(dot_NN)
    np.fill_diagonal(likeness_NN, -1.0)
    left_P: list[int] = []
    right_P: list[int] = []
    is_used = [False] * len(dot_NN)
    for node in np.argsort(-np.diagonal(dot_NN), kind="stable").tolist():
        if is_used[node]:
            continue
        partner = int(likeness_NN[node].argmax())
        is_used[node] = is_used[partner] = True
        likeness_NN[:, [node, partner]] = -1.0
        left_P.append(node)
        right_P.append(partner)
    return left_P, right_P, dot_NN[left_P, right_P].tolist()
