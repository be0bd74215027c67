"""Slow, obvious versions of how pairs travel between ranks. Ranks are simulated: lists indexed by rank."""

from __future__ import annotations


def slots(holds):
    """{(rank, expert): slot} for holds [rank][expert], and the number of experts on each rank."""
    numbered = {}
    for rank, row in enumerate(holds):
        for expert, held in enumerate(row):
            if held:
                numbered[rank, expert] = len(numbered)
    return numbered, [sum(map(bool, row)) for row in holds]


def sending_order(destinations):
    """The pairs of one rank, given (rank, expert) of each, in the order of sending: by rank, expert, own order."""
    order = []
    for destination in sorted(set(destinations)):
        order += [pair for pair, where in enumerate(destinations) if where == destination]
    return order


def expert_layer(tokens, pairs, devices, functions):
    """What each rank's tokens get: sum over its pairs of weight * expert(token), and the rows that each rank runs.

    tokens[rank]: list of vectors; pairs[rank]: list of (token, expert, weight); devices[rank]: the rank of each pair;
    functions[expert]: vector -> vector.
    """
    outputs = [[[0.0] * len(vector) for vector in rows] for rows in tokens]
    ran = [[] for _ in tokens]
    for source, own in enumerate(pairs):
        for (token, expert, weight), device in zip(own, devices[source], strict=True):
            result = functions[expert](tokens[source][token])
            ran[device].append((source, token, expert))
            for column, value in enumerate(result):
                outputs[source][token][column] += weight * value
    return outputs, ran


def loads_of_all(loads):
    """Sum of several [layers][experts] tables."""
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*loads, strict=True)]
