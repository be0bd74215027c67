"""Generated arithmetic: problems of many forms and sizes, each with its answer."""

import math
import random
from collections.abc import Callable, Iterator

from tools.text_model.document import Document, name_fraction

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Lena", "Max")
THINGS = ("apples", "books", "coins", "letters", "eggs", "bricks", "tickets", "stamps", "pears", "nails")


def _operand(rng: random.Random, max_digits: int = 4) -> int:
    digits = rng.randint(1, max_digits)
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)


def sum_line(rng: random.Random) -> str:
    """An addition."""
    a, b = _operand(rng, 5), _operand(rng, 5)
    return f"{a} + {b} = {a + b}"


def difference_line(rng: random.Random) -> str:
    """A subtraction, with negative results too."""
    a, b = _operand(rng, 5), _operand(rng, 5)
    return f"{a} - {b} = {a - b}"


def product_line(rng: random.Random) -> str:
    """A multiplication."""
    a, b = _operand(rng, 3), _operand(rng, 2)
    return f"{a} * {b} = {a * b}"


def division_line(rng: random.Random) -> str:
    """A division with remainder."""
    a, b = _operand(rng, 4), rng.randint(2, 25)
    return f"{a} divided by {b} is {a // b}, remainder {a % b}"


def modulo_line(rng: random.Random) -> str:
    """A remainder alone."""
    a, b = _operand(rng, 4), rng.randint(2, 60)
    return f"{a} mod {b} = {a % b}"


def chain_line(rng: random.Random) -> str:
    """A sum of three terms with brackets or without."""
    a, b, c = _operand(rng, 3), _operand(rng, 3), _operand(rng, 2)
    if rng.random() < 0.5:
        return f"{a} + {b} - {c} = {a + b - c}"
    return f"({a} + {b}) * {c} = {(a + b) * c}"


def comparison_line(rng: random.Random) -> str:
    """Which of two numbers is larger."""
    a, b = _operand(rng), _operand(rng)
    sign = "=" if a == b else (">" if a > b else "<")
    return f"{a} {sign} {b}"


def sequence_line(rng: random.Random) -> str:
    """An arithmetic sequence."""
    start, step = _operand(rng, 3), rng.randint(2, 40)
    return ", ".join(str(start + step * i) for i in range(rng.randint(4, 7)))


def sorting_line(rng: random.Random) -> str:
    """A list and the same list sorted."""
    values = [_operand(rng, 3) for _ in range(rng.randint(3, 6))]
    return f"sort {' '.join(map(str, values))} -> {' '.join(map(str, sorted(values)))}"


def divisor_line(rng: random.Random) -> str:
    """A greatest common divisor."""
    factor = rng.randint(1, 24)
    a, b = factor * rng.randint(2, 40), factor * rng.randint(2, 40)
    return f"gcd({a}, {b}) = {math.gcd(a, b)}"


def gain_story(rng: random.Random) -> str:
    """Somebody gets more of something."""
    name, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), _operand(rng, 3), _operand(rng, 3)
    return f"{name} has {a} {thing} and buys {b} more. Now {name} has {a + b} {thing}."


def loss_story(rng: random.Random) -> str:
    """Somebody gives something away."""
    name, thing, b = rng.choice(NAMES), rng.choice(THINGS), _operand(rng, 3)
    a = b + _operand(rng, 3)
    return f"{name} has {a} {thing} and gives away {b}. {a - b} {thing} are left."


def price_story(rng: random.Random) -> str:
    """A price times a number of things."""
    thing, a, b = rng.choice(THINGS), rng.randint(2, 60), rng.randint(2, 60)
    return f"What do {a} {thing} cost at {b} cents each? {a * b} cents."


FORMS: tuple[Callable[[random.Random], str], ...] = (
    sum_line, difference_line, product_line, division_line, modulo_line, chain_line, comparison_line,
    sequence_line, sorting_line, divisor_line, gain_story, loss_story, price_story,
)  # fmt: skip


def arithmetic_documents(*, num_documents: int, held_out_fraction: float, seed: int) -> Iterator[Document]:
    """Documents of 30 problems each; a held-out document shares no problem with any other split's.

    A problem belongs to the split its own text hashes to, and a document (by its name) takes problems of
    its own split only.
    """
    for number in range(num_documents):
        name = f"arithmetic/{seed}/{number}"
        held_out = name_fraction(name) < held_out_fraction
        rng = random.Random(f"{seed}/{number}")
        forms = rng.sample(FORMS, rng.randint(1, 5))
        lines: list[str] = []
        while len(lines) < 30:
            line = rng.choice(forms)(rng)
            if (name_fraction(line) < held_out_fraction) == held_out:
                lines.append(line)
        yield Document(name=name, text="\n".join(lines))
