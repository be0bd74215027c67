"""Slow, obvious versions of what evenmoe.scheduling computes fast. Loops only; exact on whole numbers."""

from fractions import Fraction
from itertools import combinations, product


def added(vectors):
    return [sum(column) for column in zip(*vectors, strict=True)]


def variance(vector):
    mean = Fraction(sum(vector)) / len(vector)
    return sum((x - mean) ** 2 for x in vector) / len(vector)


def dot(one, other):
    return sum(x * y for x, y in zip(one, other, strict=True))


def distance_to_uniform(vector):
    return sum((x - Fraction(sum(vector)) / len(vector)) ** 2 for x in vector)


def excess(vector, num_layers):
    size = len(vector) // num_layers
    layers = [vector[start : start + size] for start in range(0, len(vector), size)]
    return sum(max(layer) - Fraction(sum(layer)) / size for layer in layers)


def greedy(loads, batch_size, score, first=(0,), base=()):
    """Again and again the candidate of the least score(load so far, candidate); the oldest of equals.

    base: load vectors of what runs beside the batch.
    """
    picked = list(first)
    while len(picked) < min(batch_size, len(loads)):
        batch = added([*base, *(loads[i] for i in picked)])
        left = [i for i in range(len(loads)) if i not in picked]
        picked.append(min(left, key=lambda i: (score(batch, loads[i]), i)))
    return picked


SCORES = {
    "greedy_variance": lambda batch, v: variance(added([batch, v])),
    "greedy_dot_product": lambda batch, v: dot(batch, v),
    "norm_minimizing": lambda batch, v: dot(added([batch, v]), added([batch, v])),
    "best_fit": lambda batch, v: distance_to_uniform(added([batch, v])),
}


def peak_excess(loads, batch_size, num_layers, exchanges, base=()):
    picked = greedy(loads, batch_size, SCORES["greedy_variance"], base=base)

    def cost(members):
        return excess(added([*base, *(loads[i] for i in members)]), num_layers)

    for _ in range(exchanges):
        outside = [i for i in range(len(loads)) if i not in picked]
        trials = [
            (cost([other if i == member else i for i in picked]), place, other)
            for place, member in enumerate(picked)
            if place
            for other in outside
        ]
        if not trials or min(trials)[0] >= cost(picked):
            break
        _, place, other = min(trials)
        picked[place] = other
    return picked


def lpt(loads, batch_size):
    order = sorted(range(1, len(loads)), key=lambda i: (-sum(loads[i]), i))
    return [0, *order][:batch_size]


def _by_age(members, loads, batch_size):
    """The members that run, the oldest first, then whoever is oldest."""
    rest = [i for i in range(len(loads)) if i not in members]
    return (sorted(members) + rest)[:batch_size]


def lpt_balanced(loads, batch_size):
    batches = [[] for _ in range(-(-len(loads) // batch_size))]
    for i in sorted(range(len(loads)), key=lambda i: (-sum(loads[i]), i)):
        with_room = [b for b in range(len(batches)) if len(batches[b]) < batch_size]
        best = min(with_room, key=lambda b: (variance(added([loads[j] for j in [*batches[b], i]])), b))
        batches[best].append(i)
    return _by_age(next(members for members in batches if 0 in members), loads, batch_size)


def karmarkar_karp(loads, batch_size):
    num_batches = -(-len(loads) // batch_size)
    order = sorted(range(len(loads)), key=lambda i: (-sum(loads[i]), i))
    nodes = []
    for start in range(0, len(order), num_batches):
        parts = [[i] for i in order[start : start + num_batches]]
        nodes.append(parts + [[] for _ in range(num_batches - len(parts))])

    def total(part):
        return sum(sum(loads[i]) for i in part)

    def spread(parts):
        totals = [total(part) for part in parts]
        return max(totals) - min(totals)

    while len(nodes) > 1:
        first = max(nodes, key=spread)  # the first of equals: the earliest made
        nodes.remove(first)
        second = max(nodes, key=spread)
        nodes.remove(second)
        merged = [one + other for one, other in zip(first, reversed(second), strict=True)]
        nodes.append(sorted(merged, key=total, reverse=True))
    return _by_age(next(part for part in nodes[0] if 0 in part), loads, batch_size)


def _half(indices, loads):
    """Difference like with like, heaviest first, until one node is left; the side with the first of `indices`."""
    nodes = [(list(loads[i]), {i}, set()) for i in indices]
    while len(nodes) > 1:
        if len(nodes) % 2:
            nodes.append(([0] * len(loads[0]), set(), set()))
        order = sorted(range(len(nodes)), key=lambda n: (-dot(nodes[n][0], nodes[n][0]), n))
        joined = []
        while order:
            left = order.pop(0)
            right = min(order, key=lambda n: (-abs(dot(nodes[left][0], nodes[n][0])), n))
            order.remove(right)
            (v, plus, minus), (w, other_plus, other_minus) = nodes[left], nodes[right]
            if dot(v, w) < 0:
                joined.append((added([v, w]), plus | other_plus, minus | other_minus))
            else:
                difference = [x - y for x, y in zip(v, w, strict=True)]
                joined.append((difference, plus | other_minus, minus | other_plus))
        nodes = joined
    return sorted(next(side for side in nodes[0][1:] if indices[0] in side))


def differencing(loads, batch_size):
    size = batch_size
    while size * 2 <= len(loads):
        size *= 2
    members = list(range(min(size, len(loads))))
    while len(members) > batch_size:
        members = _half(members, loads)
    return _by_age(members, loads, batch_size)


def least_excess(loads, batch_size, num_layers):
    """The least excess that any batch with the oldest request has."""
    return min(
        excess(added([loads[i] for i in (0, *others)]), num_layers)
        for others in combinations(range(1, len(loads)), batch_size - 1)
    )


def overlap(loads, devices):
    total = 0
    for device in set(devices):
        share = added([load for load, mine in zip(loads, devices, strict=True) if mine == device])
        total += dot(share, share)
    return total


def tokens_by_device(tokens, devices):
    return [
        sum(t for t, mine in zip(tokens, devices, strict=True) if mine == device) for device in set(devices)
    ]


def least_overlap(loads, num_devices):
    """The least overlap of all assignments with numbers of requests as even as may be."""
    few, many = len(loads) // num_devices, -(-len(loads) // num_devices)
    return min(
        overlap(loads, devices)
        for devices in product(range(num_devices), repeat=len(loads))
        if all(few <= devices.count(device) <= many for device in range(num_devices))
    )
