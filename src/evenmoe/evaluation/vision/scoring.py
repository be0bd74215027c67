"""The bundled set as prompts, and whether its answers are right. Needs neither a model nor a harness."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from evenmoe.evaluation.results import versions
from evenmoe.evaluation.scenes import Item, heldout_items
from evenmoe.evaluation.scenes.items import ITEMS_PER_FAMILY
from evenmoe.evaluation.scoring import EvalConfig, ItemScore, TaskScore
from evenmoe.evaluation.vision.prompts import Prompt
from evenmoe.evaluation.vision.suites import scene_tasks

METRIC = "exact_match"
MAX_NEW_TOKENS = 4
"""An answer of the bundled set is one word, and then the end."""


def scene_items(config: EvalConfig) -> list[Item]:
    """The items of the configured families in the set's order, families taking turns; the first `limit` of each."""
    families = {family for task, family in scene_tasks().items() if task in config.tasks}
    items = heldout_items(min(config.limit or ITEMS_PER_FAMILY, ITEMS_PER_FAMILY))
    return [item for item in items if item.family in families]


def scene_prompt(item: Item) -> Prompt:
    """An item as it is put to a model: the image, then the question."""
    from PIL import Image

    return Prompt(text=item.question, images=(Image.fromarray(item.image),), max_new_tokens=MAX_NEW_TOKENS)


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer is the expected one, but for case, a full stop and white space around it."""
    return answer.strip().removesuffix(".").strip().lower() == expected.lower()


def score_scenes(items: Sequence[Item], answers: Sequence[str]) -> dict[str, list[ItemScore]]:
    """The score of each item, 1 or 0, by task."""
    task_of = {family: task for task, family in scene_tasks().items()}
    scores: dict[str, list[ItemScore]] = {}
    for item, answer in zip(items, answers, strict=True):
        score = float(is_right(answer, item.answer))
        row = ItemScore(item=item.id, score=score, group=item.kind, answer=answer)
        scores.setdefault(task_of[item.family], []).append(row)
    return {task: scores[task] for task in scene_tasks() if task in scores}


def task_score(task: str, rows: Sequence[ItemScore], items_file: str) -> TaskScore:
    """The mean over a task's items, with its standard error."""
    scores = np.array([row.score for row in rows])
    return TaskScore(
        task=task,
        metric=METRIC,
        num_fewshot=0,
        num_items=len(rows),
        score=float(scores.mean()),
        stderr=float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else None,
        items_file=items_file,
    )


def vision_versions() -> dict[str, str]:
    """The versions that the numbers may depend on: Pillow prepares the images."""
    return versions() | {"pillow": version("pillow")}


def batches_of(items: Sequence[Item], config: EvalConfig) -> dict[str, Any]:
    """How the batches were formed, as data; the fingerprint is that of the items' ids in order."""
    order = "\n".join(item.id for item in items).encode()
    return {
        "size": config.batch_size,
        "order": "the set's own, question families taking turns",
        "num_batches": -(-len(items) // config.batch_size),
        "last_batch": (len(items) - 1) % config.batch_size + 1,
        "devices": "contiguous shares of a batch's rows, the first (rows mod devices) devices one more",
        "fingerprint": hashlib.sha256(order).hexdigest(),
    }
