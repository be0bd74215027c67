"""What the run measured, as data: everything the card says comes from here."""

import json
import os
import platform
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedTokenizerFast, Qwen3VLMoeForConditionalGeneration

from evenmoe.evaluation.scenes import KINDS, Item, heldout_items
from tools.vlm_model.measure import accuracy_by, answer_items, measure_loads, model_inputs
from tools.vlm_model.model import num_parameters
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.train import Trainer


def collect_metrics(
    recipe: Recipe,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerFast,
    model: Qwen3VLMoeForConditionalGeneration,
) -> dict[str, Any]:
    """Measure the exported model on the held-out set and join it with the run's log."""
    items = heldout_items()
    shuffled = shuffle_images(items, recipe.seed)
    answers = answer_items(model, tokenizer, items)
    blind = answer_items(model, tokenizer, shuffled)
    return {
        "recipe": recipe.as_dict(),
        "parameters": num_parameters(model),
        "held_out_items": len(items),
        "accuracy": {"family": accuracy_by(items, answers, "family"), "kind": accuracy_by(items, answers, "kind")},
        "shuffled": {"family": accuracy_by(shuffled, blind, "family"), "kind": accuracy_by(shuffled, blind, "kind")},
        "majority": {"family": majority(items, "family"), "kind": majority(items, "kind")},
        "family_of_kind": {name: kind.family for name, kind in KINDS.items()},
        "image_token_share": image_token_share(model, tokenizer, items),
        "imbalance": measure_loads(model, tokenizer, items),
        "curve": trainer.log,
        "train_images": recipe.images_per_step * trainer.step,
        "train_questions": recipe.images_per_step * recipe.questions_per_image * (trainer.step - recipe.vision_steps),
        "train_seconds": trainer.seconds,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }  # fmt: skip


def shuffle_images(items: Sequence[Item], seed: int) -> list[Item]:
    """The same questions, each with another item's image: what can be guessed without looking."""
    order = np.random.default_rng(seed).permutation(len(items))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return [replace(item, image=items[j].image) for item, j in zip(items, other, strict=True)]


def majority(items: Sequence[Item], key: str) -> dict[str, float]:
    """Accuracy of always giving the most common answer: of each kind, or of the kinds that a family joins."""
    counts: dict[str, Counter[str]] = {}
    for item in items:
        counts.setdefault(item.kind, Counter())[item.answer] += 1
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for item in items:
        name = getattr(item, key)
        for group in (name, "all"):
            total[group] += 1
            right[group] += item.answer == counts[item.kind].most_common(1)[0][0]
    return {name: right[name] / total[name] for name in [*(n for n in total if n != "all"), "all"]}


def image_token_share(
    model: Qwen3VLMoeForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]
) -> dict[str, float]:
    """Image tokens over all tokens of a prompt with its answer: least, mean and greatest over the items."""
    shares = []
    for item in items:
        inputs = model_inputs(model, tokenizer, [item])
        shares.append(int(inputs["mm_token_type_ids"].sum()) / (inputs["input_ids"].shape[1] + 2))
    return {"least": min(shares), "mean": sum(shares) / len(shares), "greatest": max(shares)}


def write_metrics(metrics: dict[str, Any], out: Path) -> None:
    """Write `metrics.json`."""
    (out / "metrics.json").write_text(
        json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
