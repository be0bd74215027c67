"""What a scene holds: up to four coloured objects on a grid of three by three cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

GRID = 3
MAX_OBJECTS = 4
SHAPES = ("circle", "square", "triangle")
NOUNS = (*SHAPES, "digit")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
_SHARE_WITH_DIGIT = 0.6
_SHARE_OF_TWO_COLOURS = 0.5

Background = Literal["dark", "light"]


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """An object in a cell; row 0 is the top, column 0 the left. `digit` is the figure shown, for digits only."""

    noun: str
    colour: str
    row: int
    column: int
    digit: int | None = None

    @property
    def name(self) -> str:
        """Colour and noun, as questions say it: "red circle"."""
        return f"{self.colour} {self.noun}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background and one to four objects, each in a cell of its own; at most one of them is a digit."""

    background: Background
    objects: tuple[SceneObject, ...]

    def named(self, **attributes: object) -> list[SceneObject]:
        """The objects that have all the given attributes: `scene.named(colour="red", noun="circle")`."""
        return [
            thing for thing in self.objects if all(getattr(thing, key) == v for key, v in attributes.items())
        ]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: the same generator state gives the same scene.

    Half of the scenes use two colours only, so that objects which share a colour are common.
    """
    num_objects = int(rng.integers(1, MAX_OBJECTS + 1))
    cells = rng.permutation(GRID * GRID)[:num_objects]
    palette = list(COLOURS)
    if rng.random() < _SHARE_OF_TWO_COLOURS:
        palette = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:2]]
    with_digit = rng.random() < _SHARE_WITH_DIGIT
    objects = []
    for i, cell in enumerate(cells):
        colour = palette[int(rng.integers(len(palette)))]
        noun = "digit" if with_digit and i == 0 else SHAPES[int(rng.integers(len(SHAPES)))]
        digit = int(rng.integers(10)) if noun == "digit" else None
        row, column = divmod(int(cell), GRID)
        objects.append(SceneObject(noun=noun, colour=colour, row=row, column=column, digit=digit))
    background: Background = "dark" if rng.random() < 0.5 else "light"
    return Scene(background=background, objects=tuple(objects))
