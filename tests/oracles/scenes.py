"""Answers read off a scene's list of objects, question text by question text: slow, and shares no code with the maker.

A question is matched against patterns; a name must fit exactly one object, else the question is ambiguous.
"""

import re
from collections.abc import Callable, Sequence

ROW_WORDS = {0: "top", 1: "middle", 2: "bottom"}
COLUMN_WORDS = {0: "left", 1: "centre", 2: "right"}
NAME = r"((?:[a-z]+ )?[a-z]+)"


def answer(text: str, background: str, objects: Sequence[dict[str, object]]) -> str:
    """The answer to a question. Raises ValueError where the scene does not settle it."""
    for pattern, rule in RULES:
        match = re.fullmatch(pattern, text)
        if match:
            return str(rule(background, list(objects), *match.groups()))
    raise ValueError(f"no such question: {text!r}")


def find(objects: list[dict[str, object]], name: str) -> dict[str, object]:
    words = name.split()
    fitting = []
    for thing in objects:
        labels = {thing["colour"], thing["noun"], "object"}
        if all(word in labels for word in words):
            fitting.append(thing)
    if len(fitting) != 1:
        raise ValueError(f"{name!r} fits {len(fitting)} objects")
    return fitting[0]


def yes(fact: object) -> str:
    return "yes" if fact else "no"


def same(key: str) -> Callable[..., str]:
    return lambda _, things, a, b: yes(find(things, a)[key] == find(things, b)[key])


def is_beside(_: str, things: list[dict[str, object]], a: str, side: str, b: str) -> str:
    one, two = find(things, a), find(things, b)
    axis = {"left of": "column", "right of": "column", "above": "row", "below": "row"}[side]
    place = [one[axis], two[axis]]
    if place[0] == place[1]:
        raise ValueError("level with each other")
    return yes(place == sorted(place) if side in ("left of", "above") else place != sorted(place))


def which_is_further(_: str, things: list[dict[str, object]], way: str, a: str, b: str) -> object:
    one, two = find(things, a), find(things, b)
    moves = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[way]

    def far(thing: dict[str, object]) -> int:
        return int(str(thing["row"])) * moves[0] + int(str(thing["column"])) * moves[1]

    if far(one) == far(two) or one["colour"] == two["colour"]:
        raise ValueError("neither, or not told apart by colour")
    return (one if far(one) > far(two) else two)["colour"]


def figure(things: list[dict[str, object]]) -> int:
    return int(str(find(things, "digit")["digit"]))


def count(things: list[dict[str, object]], colour: str) -> int:
    return sum(thing["colour"] == colour for thing in things)


RULES: list[tuple[str, Callable[..., object]]] = [
    (r"what colour is the ([a-z]+)\?", lambda _, things, name: find(things, name)["colour"]),
    (rf"what shape is the {NAME}\?", lambda _, things, name: find(things, name)["noun"]),
    (r"is the background dark or light\?", lambda background, _: background),
    (r"how many objects are there\?", lambda _, things: len(things)),
    (r"how many objects are not ([a-z]+)\?", lambda _, things, colour: len(things) - count(things, colour)),
    (r"how many objects are ([a-z]+)\?", lambda _, things, colour: count(things, colour)),
    (r"is there a ([a-z]+)\?", lambda _, things, noun: yes([t for t in things if t["noun"] == noun])),
    (r"which number is the digit\?", lambda _, things: figure(things)),
    (rf"which row is the {NAME} in\?", lambda _, things, name: ROW_WORDS[find(things, name)["row"]]),
    (rf"which column is the {NAME} in\?", lambda _, things, name: COLUMN_WORDS[find(things, name)["column"]]),
    (rf"do the {NAME} and the {NAME} have the same colour\?", same("colour")),
    (rf"do the {NAME} and the {NAME} have the same shape\?", same("noun")),
    (r"what is the digit plus (\d)\?", lambda _, things, addend: figure(things) + int(addend)),
    (r"is the digit greater than (\d)\?", lambda _, things, bound: yes(figure(things) > int(bound))),
    (rf"is the {NAME} (left of|right of|above|below) the {NAME}\?", is_beside),
    (rf"which is further (left|right|up|down) the {NAME} or the {NAME}\?", which_is_further),
]
