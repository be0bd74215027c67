"""The bundled scenes as tasks of lmms-eval: their data is drawn in memory, with no dataset to fetch or write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import datasets
from lmms_eval.api.task import ConfigurableTask
from PIL import Image

from evenmoe.evaluation.scenes import Item, heldout_items
from evenmoe.evaluation.vision.scoring import is_right, scene_prompt
from evenmoe.evaluation.vision.suites import SCENES, scene_tasks

SPLIT = "test"
TASK_OF = {family: task.removeprefix(f"{SCENES}_") for task, family in scene_tasks().items()}
"""The metric of each question family."""


class ScenesTask(ConfigurableTask):  # type: ignore[misc]  # lmms-eval has no types
    """A task of lmms-eval whose documents are the held-out scenes, in their order: families take turns."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Draw the documents, in memory."""
        items = _items().values()
        features = datasets.Features(
            {name: datasets.Value("string") for name in ("id", "question", "answer", "family", "kind")}
            | {"options": [datasets.Value("string")]}
        )
        split = datasets.Dataset.from_list([_document(item) for item in items], features=features)
        self.dataset = self.dataset_no_image = datasets.DatasetDict({SPLIT: split})


def _document(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "question": item.question,
        "answer": item.answer,
        "family": item.family,
        "kind": item.kind,
        "options": list(item.options),
    }


@cache
def _items() -> dict[str, Item]:
    return {item.id: item for item in heldout_items()}


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """The scene, drawn from the document's id: the documents themselves hold text alone."""
    return list(scene_prompt(_items()[doc["id"]]).images)


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question alone: the bundled model knows no words of instruction."""
    return str(doc["question"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score an answer, for the whole set and for its family; the rule is that of `evenmoe eval --suite multimodal`."""
    score = float(is_right(results[0], doc["answer"]))
    return {"exact_match": score, TASK_OF[doc["family"]]: score}
