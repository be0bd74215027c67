"""A tiny random vision-language MoE with a processor, as a checkpoint's folder: tests ask it nonsense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from evenmoe.evaluation.vision.prompts import Prompt
from evenmoe.models.tiny.build import tiny_model
from evenmoe.models.tiny.defaults import IMAGE_END_ID, IMAGE_ID, IMAGE_START_ID, PAD_ID

MODEL_TYPE = "qwen3_vl_moe"
VOCABULARY = 120
SPECIAL = {
    "<|pad|>": PAD_ID,
    "<|end|>": 2,
    "<|unknown|>": 3,
    "<|image_pad|>": IMAGE_ID,
    "<|video_pad|>": IMAGE_ID + 1,
    "<|vision_start|>": IMAGE_START_ID,
    "<|vision_end|>": IMAGE_END_ID,
}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' w9 ' }}{% endif %}"
)


def save_tiny_vlm(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Write model, tokenizer and image processor; words are w4 to w119, an image has 16 tokens."""
    tiny_model(MODEL_TYPE).save_pretrained(folder)
    taken = set(SPECIAL.values())
    words = {f"w{number}": number for number in range(VOCABULARY) if number not in taken}
    core = Tokenizer(models.WordLevel(words | SPECIAL, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
        chat_template=template,
    )
    tokenizer.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 1024}
    )
    images.save_pretrained(folder)
    return folder


def some_prompts(num: int, seed: int = 0) -> list[Prompt]:
    """Questions of unequal length about none to two random images, with unequal limits."""
    rng = np.random.default_rng(seed)
    return [
        Prompt(
            text=" ".join(f"w{word}" for word in rng.integers(10, VOCABULARY, rng.integers(2, 12))),
            images=tuple(_image(rng) for _ in range((1, 2, 1, 0)[index % 4])),
            max_new_tokens=int(rng.integers(1, 7)),
        )
        for index in range(num)
    ]


def _image(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
