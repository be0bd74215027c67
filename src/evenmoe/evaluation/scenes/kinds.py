"""The kinds of question, by the ability each asks for (named as in MMBench), and what may be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evenmoe.evaluation.scenes.scene import COLOURS, NOUNS

Family = Literal[
    "attribute recognition",
    "coarse perception",
    "fine-grained perception (single-instance)",
    "fine-grained perception (cross-instance)",
    "logic reasoning",
    "relation reasoning",
]
FAMILIES: tuple[Family, ...] = (
    "attribute recognition",
    "coarse perception",
    "fine-grained perception (single-instance)",
    "fine-grained perception (cross-instance)",
    "logic reasoning",
    "relation reasoning",
)
_ATTRIBUTE, _COARSE, _SINGLE, _CROSS, _LOGIC, _RELATION = FAMILIES
YES_NO = ("yes", "no")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of question: the family it belongs to, and every answer it can have."""

    name: str
    family: Family
    answers: tuple[str, ...]


def _numbers(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(n) for n in range(first, last + 1))


KINDS: dict[str, Kind] = {
    name: Kind(name=name, family=family, answers=answers)
    for name, family, answers in (
        ("colour", _ATTRIBUTE, COLOURS),
        ("shape", _ATTRIBUTE, NOUNS),
        ("background", _COARSE, ("dark", "light")),
        ("count", _COARSE, _numbers(1, 4)),
        ("present", _COARSE, YES_NO),
        ("digit", _SINGLE, _numbers(0, 9)),
        ("row", _SINGLE, ROWS),
        ("column", _SINGLE, COLUMNS),
        ("same_colour", _CROSS, YES_NO),
        ("same_shape", _CROSS, YES_NO),
        ("count_colour", _CROSS, _numbers(0, 3)),
        ("plus", _LOGIC, _numbers(1, 12)),
        ("greater", _LOGIC, YES_NO),
        ("not_colour", _LOGIC, _numbers(0, 4)),
        ("beside", _RELATION, YES_NO),
        ("further", _RELATION, COLOURS),
    )
}


def kinds_of(family: Family) -> tuple[str, ...]:
    """The names of a family's kinds."""
    return tuple(kind.name for kind in KINDS.values() if kind.family == family)
