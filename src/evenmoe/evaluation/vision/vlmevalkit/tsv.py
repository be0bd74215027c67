"""The bundled scenes as a table that VLMEvalKit reads: a file `$LMUData/NAME.tsv` is its benchmark NAME."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_uppercase

from evenmoe.evaluation.scenes import Item, heldout_items
from evenmoe.evaluation.scenes.items import NUM_OPTIONS
from evenmoe.evaluation.scoring import require_extra

LETTERS = ascii_uppercase[:NUM_OPTIONS]
COLUMNS = ("index", "question", *LETTERS, "answer", "category", "l2-category", "image")
"""answer: the letter of the right option. category: the kind of question; l2-category: its family."""


def write_tsv(path: Path | str, items: Iterable[Item] | None = None) -> Path:
    """Write items (None: the whole held-out set) as a multiple-choice benchmark; returns the path.

    Options that an item does not have are empty. The same items give the same bytes. Raises MissingExtraError without
    Pillow.
    """
    require_extra("vlm", "PIL")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row_of(item) for item in (heldout_items() if items is None else items))
    os.replace(partial, path)
    return path


def row_of(item: Item) -> Sequence[str]:
    """Return an item as a row of `COLUMNS`, "" for an option that it has not."""
    options = [*item.options, *[""] * (NUM_OPTIONS - len(item.options))]
    letter = LETTERS[item.options.index(item.answer)]
    return (item.id, item.question, *options, letter, item.kind, item.family, _base64_png(item))


def _base64_png(item: Item) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(item.image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
