"""Slow, obvious versions of what evenmoe.scheduling.predictors computes fast. Loops over tokens only."""

from fractions import Fraction
from math import sqrt


def counted(prompts, chosen, num_layers, num_experts):
    """{token id: (times seen, [L][E] counts)}; `chosen[prompt][token][layer]` are the experts of a token."""
    table = {}
    for ids, choices in zip(prompts, chosen, strict=True):
        for token, by_layer in zip(ids, choices, strict=True):
            seen, counts = table.get(token, (0, [[0] * num_experts for _ in range(num_layers)]))
            for layer, experts in enumerate(by_layer):
                for expert in experts:
                    counts[layer][expert] += 1
            table[token] = (seen + 1, counts)
    return table


def prior(table, ids, shrinkage, mean_weight=Fraction(1, 2)):
    """[L][E]: the weighted mean of the rows of the tokens and of the mean of everything, times the number of tokens."""
    shrinkage = Fraction(shrinkage)
    some = next(iter(table.values()))[1]
    layers, experts = range(len(some)), range(len(some[0]))
    tokens = sum(seen for seen, _ in table.values())
    total = [[Fraction(0) for _ in experts] for _ in layers]
    for layer in layers:
        for expert in experts:
            pairs = sum(counts[layer][expert] for _, counts in table.values())
            total[layer][expert] = mean_weight * Fraction(pairs, tokens)
    weight = Fraction(mean_weight)
    for token in ids:
        if token not in table:
            continue
        seen, counts = table[token]
        own = seen / (seen + shrinkage)
        weight += own
        for layer in layers:
            for expert in experts:
                total[layer][expert] += own * Fraction(counts[layer][expert], seen)
    return [[float(value / weight * len(ids)) for value in row] for row in total]


def cosine(one, other):
    lengths = sqrt(sum(x * x for x in one)) * sqrt(sum(x * x for x in other))
    if lengths == 0:
        return 1.0 if not any(one) and not any(other) else 0.0
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths


def top_overlap(one, other, num_top):
    def busiest(load):
        return set(sorted(range(len(load)), key=lambda expert: (-load[expert], expert))[:num_top])

    return len(busiest(one) & busiest(other)) / num_top
