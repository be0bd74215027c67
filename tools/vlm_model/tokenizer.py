"""The tokenizer: one token per word of a closed vocabulary."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evenmoe.evaluation.scenes import KINDS, ask_all, draw_scene

PADDING, UNKNOWN, END = "<|pad|>", "<|unknown|>", "<|end|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
VISION_START, VISION_END, IMAGE, VIDEO = (
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
)  # fmt: skip
SPECIAL = (PADDING, UNKNOWN, END, USER, ASSISTANT, VISION_START, VISION_END, IMAGE, VIDEO)
_NUM_SCENES = 3_000

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def words_of(text: str) -> list[str]:
    """Words and punctuation marks, as the tokenizer cuts them."""
    return text.lower().replace("?", " ?").split()


def vocabulary() -> list[str]:
    """Every word that questions and answers use, in alphabetical order."""
    rng = np.random.default_rng(0)
    words = {word for kind in KINDS.values() for word in kind.answers}
    for _ in range(_NUM_SCENES):
        for question in ask_all(draw_scene(rng)):
            words.update(words_of(question.text))
    return sorted(words)


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the special tokens and the words; everything else is `<|unknown|>`."""
    ids = {token: i for i, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PADDING, unk_token=UNKNOWN, eos_token=END, padding_side="left",
        additional_special_tokens=[USER, ASSISTANT, VISION_START, VISION_END, IMAGE, VIDEO],
        chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the files that `AutoTokenizer.from_pretrained` reads."""
    tokenizer.save_pretrained(out)
