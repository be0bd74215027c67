"""Prompts to calibrate on: drawn scenes of no evaluation, or the user's own images and questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.scenes.digits import heldout_digits
from evenmoe.evaluation.scenes.questions import ask_all
from evenmoe.evaluation.scenes.render import render
from evenmoe.evaluation.scenes.scene import draw_scene
from evenmoe.evaluation.scoring import require_extra
from evenmoe.evaluation.vision.encoding import Encoder
from evenmoe.evaluation.vision.prompts import Prompt

_STREAM: Final = 0xCA11
"""Keeps these scenes apart from those of the held-out set, whatever the seed."""


def scene_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Draw scenes, each with one of its questions; other scenes than those of the held-out set.

    Raises ConfigError for a count below 1, MissingExtraError without Pillow.
    """
    require_extra("vlm", "PIL")
    from PIL import Image

    if count < 1:
        raise ConfigError("count", count, "at least 1")
    rng, digits = np.random.default_rng([_STREAM, seed]), heldout_digits()
    prompts = []
    for _ in range(count):
        scene = draw_scene(rng)
        questions = ask_all(scene)
        image = Image.fromarray(render(scene, digits, rng))
        prompts.append(Prompt(text=questions[int(rng.integers(len(questions)))].text, images=(image,)))
    return prompts


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """Read questions about images from lines of JSON: {"image": "cat.png", "question": "what is this?"}.

    Images are found beside the file. `limit`: the first lines only. Raises FileNotFoundError, and FileFormatError
    naming the line for anything that is wrong in it; MissingExtraError without Pillow.
    """
    require_extra("vlm", "PIL")
    from PIL import Image, UnidentifiedImageError

    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:limit], start=1):
        try:
            item = json.loads(line)
            with Image.open(path.parent / item["image"]) as image:
                prompts.append(Prompt(text=str(item["question"]), images=(image.convert("RGB"),)))
        except (ValueError, KeyError, TypeError, FileNotFoundError, UnidentifiedImageError) as error:
            raise FileFormatError(
                f'{path}, line {number}, is not {{"image": FILE, "question": TEXT}}: {error!r}'
            ) from error
    if not prompts:
        raise FileFormatError(f"{path} has no line")
    return prompts


def calibration_batches(processor: Any, prompts: Sequence[Prompt], batch_size: int) -> Iterator[Any]:
    """Yield what the model's forward takes, `batch_size` prompts at a time. Raises as `Encoder`."""
    encoder = Encoder(processor)
    for start in range(0, len(prompts), batch_size):
        yield encoder.encode(prompts[start : start + batch_size], side="right")
