"""The held-out set: images, questions, answers and options, regenerated from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scenes.digits import Digits, heldout_digits
from evenmoe.evaluation.scenes.kinds import FAMILIES, KINDS, Family, Kind, kinds_of
from evenmoe.evaluation.scenes.questions import Question, ask_family
from evenmoe.evaluation.scenes.render import Image, render
from evenmoe.evaluation.scenes.scene import Scene, draw_scene

HELDOUT_SEED = 20_260_905
ITEMS_PER_FAMILY = 200
NUM_OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question about one image.

    image: [96, 96, 3] uint8. answer: one word. options: two to four answers, the right one among them once, in a
    drawn order. family: the ability asked for; kind: the sort of question within it.
    """

    id: str
    image: Image
    question: str
    answer: str
    options: tuple[str, ...]
    family: Family
    kind: str
    scene: Scene


@cache
def heldout_items(per_family: int = ITEMS_PER_FAMILY) -> tuple[Item, ...]:
    """The held-out set, `per_family` items of each family, families taking turns so that any prefix is mixed.

    The kinds of a family take turns, and so do the answers of a kind: no answer is more common than the others
    by more than one item. A smaller set is a prefix of a larger one. Raises ConfigError unless per_family >= 1.
    """
    if per_family < 1:
        raise ConfigError("per_family", per_family, "an integer >= 1")
    digits = heldout_digits()
    return tuple(_draw_item(family, place, digits) for place in range(per_family) for family in FAMILIES)


def _draw_item(family: Family, place: int, digits: Digits) -> Item:
    kinds = kinds_of(family)
    turn, which = divmod(place, len(kinds))
    kind = KINDS[kinds[which]]
    answer = kind.answers[turn % len(kind.answers)]
    rng = np.random.default_rng([HELDOUT_SEED, FAMILIES.index(family), place])
    scene, question = _draw_question(kind, answer, rng)
    image = render(scene, digits, rng)
    image.setflags(write=False)
    return Item(
        id=f"{family.split(' (')[0].replace(' ', '-')}-{kind.name}-{place:04d}",
        image=image, question=question.text, answer=answer,
        options=_draw_options(answer, kind.answers, rng), family=family, kind=kind.name, scene=scene,
    )  # fmt: skip


def _draw_question(kind: Kind, answer: str, rng: np.random.Generator) -> tuple[Scene, Question]:
    """A scene that has such a question, and one of its questions of the kind with that answer."""
    while True:
        scene = draw_scene(rng)
        fitting = [q for q in ask_family(scene, kind.family) if (q.kind, q.answer) == (kind.name, answer)]
        if fitting:
            return scene, fitting[int(rng.integers(len(fitting)))]


def _draw_options(answer: str, answers: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    others = [other for other in answers if other != answer]
    chosen = [others[i] for i in rng.permutation(len(others))[: NUM_OPTIONS - 1]]
    options = [answer, *chosen]
    return tuple(options[i] for i in rng.permutation(len(options)))


def items_checksum(items: Iterable[Item]) -> str:
    """SHA-256 over everything in the items, in order: what numpy draws may change with its version."""
    digest = hashlib.sha256()
    for item in items:
        text = "\t".join((item.id, item.question, item.answer, *item.options, item.family, item.kind))
        digest.update(text.encode() + b"\n")
        digest.update(item.image.tobytes())
    return digest.hexdigest()
