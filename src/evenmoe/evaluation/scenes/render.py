"""A scene as pixels. Integer arithmetic throughout, so that every machine draws the same bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evenmoe.evaluation.scenes.digits import SIZE, Digits
from evenmoe.evaluation.scenes.scene import GRID, Scene, SceneObject

CELL = 32
IMAGE_SIZE = CELL * GRID
_DIGIT_SIZE = 28
_FULL_INK = 12
"""Ink from which a pixel has the digit's colour whole, out of 16."""
_RGB = {
    "red": (215, 40, 40), "green": (40, 165, 60), "blue": (50, 75, 225), "yellow": (225, 200, 40),
    "purple": (150, 50, 175), "cyan": (40, 190, 205),
}  # fmt: skip
_BACKGROUND = {"dark": (15, 56), "light": (200, 241)}
_NOISE = 14
_COLOUR_JITTER = 15

Image = npt.NDArray[np.uint8]
Cover = npt.NDArray[np.int64]


def render(scene: Scene, digits: Digits, rng: np.random.Generator) -> Image:
    """Draw a scene as [96, 96, 3] (height, width, RGB), with jitter of place, size and colour, and noise."""
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), int(rng.integers(*_BACKGROUND[scene.background])), np.int64)
    for thing in scene.objects:
        _paint(canvas, thing, digits, rng)
    canvas += rng.integers(-_NOISE, _NOISE + 1, canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8)


def _paint(canvas: Cover, thing: SceneObject, digits: Digits, rng: np.random.Generator) -> None:
    colour = np.array(_RGB[thing.colour]) + rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, 3)
    rows = slice(thing.row * CELL, (thing.row + 1) * CELL)
    columns = slice(thing.column * CELL, (thing.column + 1) * CELL)
    cell = canvas[rows, columns]
    cell += (colour - cell) * _cover(thing, digits, rng)[:, :, None] // 256


def _cover(thing: SceneObject, digits: Digits, rng: np.random.Generator) -> Cover:
    if thing.digit is None:
        return _shape_cover(thing.noun, rng)
    return _digit_cover(digits.pick(thing.digit, rng), rng)


def _shape_cover(noun: str, rng: np.random.Generator) -> Cover:
    """Opacity of each pixel of a cell [32, 32], out of 256."""
    radius = int(rng.integers(9, 13))
    x0, y0 = (int(v) for v in rng.integers(radius + 1, CELL - radius - 1, 2))
    y, x = np.mgrid[:CELL, :CELL]
    dx, dy = x - x0, y - y0
    inside = {
        "circle": dx * dx + dy * dy <= radius * radius,
        "square": (abs(dx) <= radius - 1) & (abs(dy) <= radius - 1),
        "triangle": (2 * abs(dx) <= dy + radius) & (dy <= radius),
    }[noun]
    return np.where(inside, 256, 0)


def _digit_cover(ink: Image, rng: np.random.Generator) -> Cover:
    """Opacity of a cell [32, 32] with the digit somewhere in it, enlarged by linear interpolation."""
    weights, unit = _enlarging()
    large = weights @ ink.astype(np.int64) @ weights.T
    cover = np.zeros((CELL, CELL), np.int64)
    y0, x0 = (int(v) for v in rng.integers(0, CELL - _DIGIT_SIZE + 1, 2))
    opacity = np.minimum(256, large * 256 // (_FULL_INK * unit * unit))
    cover[y0 : y0 + _DIGIT_SIZE, x0 : x0 + _DIGIT_SIZE] = opacity
    return cover


def _enlarging() -> tuple[Cover, int]:
    """Interpolation weights [28, 8] as whole numbers, and what each row sums to."""
    unit = 2 * _DIGIT_SIZE
    weights = np.zeros((_DIGIT_SIZE, SIZE), np.int64)
    for i in range(_DIGIT_SIZE):
        place, rest = divmod((2 * i + 1) * SIZE - _DIGIT_SIZE, unit)
        weights[i, max(place, 0)] += unit - rest
        weights[i, min(place + 1, SIZE - 1)] += rest
    return weights, unit
