"""Every question that a scene answers without doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from evenmoe.evaluation.scenes.kinds import COLUMNS, FAMILIES, ROWS, Family
from evenmoe.evaluation.scenes.scene import COLOURS, NOUNS, Scene, SceneObject


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its one-word answer.

    mentions: (word, object) for each object that the question names: the index of the last word of its name in
        `text.split()`, and its index in the scene.
    """

    kind: str
    text: str
    answer: str
    mentions: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Mention:
    phrase: str
    thing: SceneObject


def ask_all(scene: Scene) -> list[Question]:
    """Every question of every kind about a scene, family by family, in a fixed order.

    An object is only named by what tells it from all the others.
    """
    return [question for family in FAMILIES for question in ask_family(scene, family)]


def ask_family(scene: Scene, family: Family) -> list[Question]:
    """Every question of one family about a scene, in a fixed order."""
    return list(_ASKING[family](scene))


def _question(scene: Scene, kind: str, answer: object, *parts: str | _Mention) -> Question:
    words: list[str] = []
    mentions = []
    for part in parts:
        words += (part if isinstance(part, str) else part.phrase).split()
        if not isinstance(part, str):
            mentions.append((len(words) - 1, scene.objects.index(part.thing)))
    return Question(kind=kind, text=f"{' '.join(words)}?", answer=str(answer), mentions=tuple(mentions))


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _by_noun(scene: Scene) -> list[_Mention]:
    return [_Mention(phrase=t.noun, thing=t) for t in scene.objects if len(scene.named(noun=t.noun)) == 1]


def _by_colour(scene: Scene) -> list[_Mention]:
    return [
        _Mention(phrase=f"{t.colour} object", thing=t)
        for t in scene.objects
        if len(scene.named(colour=t.colour)) == 1
    ]


def _by_name(scene: Scene) -> list[_Mention]:
    return [
        _Mention(phrase=t.name, thing=t)
        for t in scene.objects
        if len(scene.named(colour=t.colour, noun=t.noun)) == 1
    ]


def _attributes(scene: Scene) -> Iterator[Question]:
    for m in _by_noun(scene):
        yield _question(scene, "colour", m.thing.colour, "what colour is the", m)
    for m in _by_colour(scene):
        yield _question(scene, "shape", m.thing.noun, "what shape is the", m)


def _whole(scene: Scene) -> Iterator[Question]:
    yield _question(scene, "background", scene.background, "is the background dark or light")
    yield _question(scene, "count", len(scene.objects), "how many objects are there")
    for noun in NOUNS:
        yield _question(scene, "present", _yes(bool(scene.named(noun=noun))), f"is there a {noun}")


def _places(scene: Scene) -> Iterator[Question]:
    for thing in scene.named(noun="digit"):
        yield _question(
            scene, "digit", thing.digit, "which number is the", _Mention(phrase="digit", thing=thing)
        )
    for m in _by_name(scene):
        yield _question(scene, "row", ROWS[m.thing.row], "which row is the", m, "in")
        yield _question(scene, "column", COLUMNS[m.thing.column], "which column is the", m, "in")


def _comparisons(scene: Scene) -> Iterator[Question]:
    for a, b in permutations(_by_noun(scene), 2):
        answer = _yes(a.thing.colour == b.thing.colour)
        yield _question(scene, "same_colour", answer, "do the", a, "and the", b, "have the same colour")
    for a, b in permutations(_by_colour(scene), 2):
        answer = _yes(a.thing.noun == b.thing.noun)
        yield _question(scene, "same_shape", answer, "do the", a, "and the", b, "have the same shape")
    for colour in COLOURS:
        count = len(scene.named(colour=colour))
        if count <= 3:
            yield _question(scene, "count_colour", count, f"how many objects are {colour}")


def _reasoning(scene: Scene) -> Iterator[Question]:
    for thing in scene.named(noun="digit"):
        m, figure = _Mention(phrase="digit", thing=thing), thing.digit or 0
        for addend in (1, 2, 3):
            yield _question(scene, "plus", figure + addend, "what is the", m, f"plus {addend}")
        for bound in range(9):
            yield _question(scene, "greater", _yes(figure > bound), "is the", m, f"greater than {bound}")
    for colour in COLOURS:
        count = len(scene.objects) - len(scene.named(colour=colour))
        yield _question(scene, "not_colour", count, f"how many objects are not {colour}")


def _relations(scene: Scene) -> Iterator[Question]:
    for a, b in permutations(_by_name(scene), 2):
        across = b.thing.column - a.thing.column
        down = b.thing.row - a.thing.row
        for distance, before, after in ((across, "left of", "right of"), (down, "above", "below")):
            if distance:
                for phrase, holds in ((before, distance > 0), (after, distance < 0)):
                    yield _question(scene, "beside", _yes(holds), "is the", a, f"{phrase} the", b)
        if a.thing.colour == b.thing.colour:
            continue
        for distance, before, after in ((across, "left", "right"), (down, "up", "down")):
            if distance:
                first, second = (a.thing, b.thing) if distance > 0 else (b.thing, a.thing)
                for phrase, thing in ((before, first), (after, second)):
                    yield _question(
                        scene, "further", thing.colour, f"which is further {phrase} the", a, "or the", b
                    )


_ASKING: dict[Family, Callable[[Scene], Iterator[Question]]] = dict(
    zip(FAMILIES, (_attributes, _whole, _places, _comparisons, _reasoning, _relations), strict=True)
)
