"""The data of our own lm-eval tasks (in `tasks/`), made or read on this machine: no network, and nothing is written."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset, DatasetDict

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.cloze import cloze_items
from evenmoe.evaluation.texts import heldout_texts

GSM8K_VARIABLE = "EVENMOE_GSM8K"
NUM_EXAMPLES = 5
"""Questions at the start of a GSM8K file that serve as shots, and are not asked."""


def bundled_cloze(domain: str, **_: object) -> DatasetDict:
    """Cloze items of one domain of the held-out text that ships, as the split "test".

    Further keywords are lm-eval's metadata. Raises ConfigError for an unknown domain.
    """
    texts = heldout_texts()
    if domain not in texts:
        raise ConfigError("domain", domain, f"one of {', '.join(texts)}")
    items = [asdict(item) for item in cloze_items(domain, texts[domain])]
    return DatasetDict({"test": Dataset.from_list(items)})


def local_gsm8k(**_: object) -> DatasetDict:
    """GSM8K from the file that EVENMOE_GSM8K names: the first five questions as "examples", the others as "test".

    Further keywords are lm-eval's metadata. Raises ConfigError where the variable is not set or names no file,
    FileFormatError where the file is something else.
    """
    name = os.environ.get(GSM8K_VARIABLE)
    if not name or not Path(name).is_file():
        raise ConfigError(
            GSM8K_VARIABLE, name, "an existing file of JSON lines with the fields question and answer"
        )
    rows = read_questions(Path(name))
    return DatasetDict(
        {
            "examples": Dataset.from_list(rows[:NUM_EXAMPLES]),
            "test": Dataset.from_list(rows[NUM_EXAMPLES:]),
        }
    )


def read_questions(path: Path) -> list[dict[str, str]]:
    """Questions and answers of a JSON Lines file, other fields left out.

    Raises FileFormatError naming the line, or for a file of no more questions than serve as shots.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({"question": str(row["question"]), "answer": str(row["answer"])})
        except (ValueError, TypeError, KeyError) as error:
            raise FileFormatError(f"{path}, line {number}, has no question and answer: {error}") from error
    if len(rows) <= NUM_EXAMPLES:
        raise FileFormatError(
            f"{path} has {len(rows)} questions; {NUM_EXAMPLES} serve as shots, so more are needed"
        )
    return rows
