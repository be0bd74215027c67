"""Measuring on questions: which answer the model gives, through its stock forward pass.

Shape letters: B images, S positions.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLMoeForConditionalGeneration

from evenmoe.evaluation.scenes import Item
from tools.vlm_model.packed import cut_patches
from tools.vlm_model.tokenizer import ASSISTANT, IMAGE, USER, VISION_END, VISION_START

_ITEMS_PER_FORWARD = 50


def model_inputs(
    model: Qwen3VLMoeForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]
) -> dict[str, torch.Tensor]:
    """What the stock model takes for a batch of items, padded on the left."""
    config = model.config.vision_config
    images = np.stack([item.image for item in items])
    side = images.shape[1] // config.patch_size
    num_tokens = (side // config.spatial_merge_size) ** 2
    texts = [
        f"{USER}{VISION_START}{IMAGE * num_tokens}{VISION_END}{item.question}{ASSISTANT}" for item in items
    ]
    encoded = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False
    )
    patches = cut_patches(images, config.patch_size, config.spatial_merge_size)
    frames = patches.reshape(-1, 3, 1, config.patch_size**2).repeat(2, axis=2)
    return {
        "input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"],
        "mm_token_type_ids": (encoded["input_ids"] == model.config.image_token_id).int(),
        "pixel_values": torch.from_numpy(frames.reshape(len(frames), -1)),
        "image_grid_thw": torch.tensor([[1, side, side]] * len(items)),
    }  # fmt: skip


@torch.inference_mode()
def answer_items(
    model: Qwen3VLMoeForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]
) -> list[str]:
    """The most likely next token after each question, over the whole vocabulary."""
    answers: list[str] = []
    was_training = model.training
    model.eval()
    for start in range(0, len(items), _ITEMS_PER_FORWARD):
        part = items[start : start + _ITEMS_PER_FORWARD]
        out = model(**model_inputs(model, tokenizer, part), use_cache=False, logits_to_keep=1)
        answers += tokenizer.convert_ids_to_tokens(out.logits[:, -1].argmax(-1).tolist())
    model.train(was_training)
    return answers


def accuracy_by(
    items: Sequence[Item], answers: Sequence[str], key: Literal["kind", "family"]
) -> dict[str, float]:
    """Share of right answers per kind or family, in the order they first occur, and `all`."""
    right: dict[str, list[bool]] = {}
    for item, answer in zip(items, answers, strict=True):
        right.setdefault(getattr(item, key), []).append(answer == item.answer)
        right.setdefault("all", []).append(answer == item.answer)
    right["all"] = right.pop("all")
    return {name: sum(marks) / len(marks) for name, marks in right.items()}


@torch.inference_mode()
def measure_loads(
    model: Qwen3VLMoeForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]
) -> dict[str, list[float]]:
    """Peak expert's load over the mean, per layer: over all tokens of the items, image tokens, and text tokens.

    Padding does not count. All items together are one batch.
    """
    config = model.config.text_config
    counts = {
        name: torch.zeros(config.num_hidden_layers, config.num_experts) for name in ("all", "image", "text")
    }
    for start in range(0, len(items), _ITEMS_PER_FORWARD):
        inputs = model_inputs(model, tokenizer, items[start : start + _ITEMS_PER_FORWARD])
        out = model(**inputs, use_cache=False, output_router_logits=True)
        real, image = inputs["attention_mask"].flatten().bool(), inputs["mm_token_type_ids"].flatten().bool()
        for layer, logits_TE in enumerate(out.router_logits):
            chosen_TK = logits_TE.topk(config.num_experts_per_tok, dim=-1).indices
            for name, tokens in (("all", real), ("image", real & image), ("text", real & ~image)):
                counts[name][layer] += torch.bincount(
                    chosen_TK[tokens].flatten(), minlength=config.num_experts
                )
    return {name: (count.max(-1).values / count.mean(-1)).tolist() for name, count in counts.items()}
