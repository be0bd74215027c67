"""Slow, obvious versions of drawn routing: plain lists and exact fractions, one expert and one token at a time."""

from __future__ import annotations

from fractions import Fraction


def counts_by_largest_remainder(shares: list[float], num_tokens: int, top_k: int) -> list[int]:
    """Whole pairs first, then one more to the largest remainders (lower expert first), at most one per token.

    Shares come rounded, so values are compared to nine decimals.
    """
    whole = [Fraction(share) for share in shares]
    exact = [min(share / sum(whole) * num_tokens * top_k, Fraction(num_tokens)) for share in whole]
    counts = [int(value + Fraction(1, 10**9)) for value in exact]
    remainder = [round(float(value - count), 9) for value, count in zip(exact, counts, strict=True)]
    by_remainder = sorted(range(len(exact)), key=lambda expert: (-remainder[expert], expert))
    for expert in by_remainder:
        if sum(counts) < num_tokens * top_k and counts[expert] < num_tokens:
            counts[expert] += 1
    return counts


def top_k_of(logits: list[float], top_k: int) -> set[int]:
    """The experts of the `top_k` highest logits."""
    return set(sorted(range(len(logits)), key=lambda expert: -logits[expert])[:top_k])
