"""Paired statistics with plain loops and no numpy."""

from fractions import Fraction


def slow_difference(scores, base):
    """(mean difference, squared standard error or None, better, worse), exactly, of scores given as fractions."""
    differences = [Fraction(mine) - Fraction(its) for mine, its in zip(scores, base, strict=True)]
    num = len(differences)
    mean = sum(differences, Fraction(0)) / num
    squares = sum(((value - mean) ** 2 for value in differences), Fraction(0))
    variance_of_mean = squares / (num - 1) / num if num > 1 else None
    better = sum(1 for value in differences if value > 0)
    worse = sum(1 for value in differences if value < 0)
    return mean, variance_of_mean, better, worse
