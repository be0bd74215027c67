"""Small tasks of lm-eval made on the spot, requests, and settings under which the tiny checkpoint drops much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.specs import PolicySpec

DATA = """
from datasets import Dataset, DatasetDict

WORDS = "the quick brown fox jumps over the lazy dog and runs away from it".split()


def choices(count, **_):
    rows = [
        {
            "question": " ".join(WORDS[: 3 + n % 7]) + " " + "7" * (n % 5),
            "choices": [" " + " ".join(WORDS[(n + k) % 9 : (n + k) % 9 + 1 + k]) for k in range(3)],
            "gold": n % 3,
        }
        for n in range(count)
    ]
    return DatasetDict({"test": Dataset.from_list(rows), "train": Dataset.from_list(rows[:4])})


def letters(**_):
    rows = [{"question": " ".join(WORDS[: 2 + n]), "gold": n % 4} for n in range(6)]
    return DatasetDict({"test": Dataset.from_list(rows)})


def texts(**_):
    rows = [{"text": " ".join(WORDS[: 4 + n] * (1 + 9 * n))} for n in range(4)]
    return DatasetDict({"test": Dataset.from_list(rows)})
"""

CHOICES = """
task: {name}
custom_dataset: !function toy_data.choices
dataset_kwargs: {{count: {count}}}
output_type: multiple_choice
test_split: test
training_split: train
fewshot_split: train
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""

GROUP = """
group: toys
task: [toys_few, toys_many]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
"""

LETTERS = """
task: toy_letters
custom_dataset: !function toy_data.letters
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: gold
num_fewshot: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""

SPOKEN = """
task: toy_spoken
custom_dataset: !function toy_data.letters
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "over"
generation_kwargs: {until: ["o"], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""

ROLLING = """
task: toy_texts
custom_dataset: !function toy_data.texts
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""

UNREACHABLE = """
task: toy_far
dataset_path: nobody/no-such-dataset
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
"""


def write_tasks(folder: Path) -> Path:
    """Write the task files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy_data.py").write_text(DATA)
    for name, count in (("toy_choices", 10), ("toys_few", 5), ("toys_many", 8)):
        (folder / f"{name}.yaml").write_text(CHOICES.format(name=name, count=count))
    for name, text in (
        ("toys", GROUP),
        ("letters", LETTERS),
        ("spoken", SPOKEN),
        ("texts", ROLLING),
        ("far", UNREACHABLE),
    ):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def config(checkpoint: Path, tasks_folder: Path, *tasks: str, **settings: Any) -> EvalConfig:
    """A configuration that drops at random, so that whatever depends on batches or on draws shows."""
    defaults: dict[str, Any] = {
        "policy": PolicySpec(name="token_drop", options={"keep": "random"}),
        "gamma": 0.5,
        "num_devices": 2,
        "min_tokens": 1,
        "batch_size": 4,
    }
    return EvalConfig(
        model=str(checkpoint), tasks=tasks, include_path=str(tasks_folder), **(defaults | settings)
    )


def instance(kind: str, *arguments: Any) -> Instance:
    """A request as lm-eval hands it to a model."""
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("toy", 0, 1))
