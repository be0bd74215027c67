"""Encoding: prompts as a batch of tensors, by the model's own processor and chat template. B rows, S positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.vision.prompts import Prompt


class Encoder:
    """A processor of images and text, as far as answering needs it."""

    def __init__(self, processor: Any) -> None:
        """Raises UnsupportedModelError for a processor without a tokenizer, or with no token to pad with."""
        self._processor = processor
        self._tokenizer: Any = getattr(processor, "tokenizer", None)
        if self._tokenizer is None:
            raise UnsupportedModelError(
                f"{type(processor).__name__} has no tokenizer: is it a processor of images and text?"
            )
        if self._tokenizer.pad_token_id is None:
            if self._tokenizer.eos_token is None:
                raise UnsupportedModelError(f"{type(self._tokenizer).__name__} has no token to pad with")
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @property
    def pad_token_id(self) -> int:
        """The id that shorter rows are padded with."""
        return int(self._tokenizer.pad_token_id)

    @property
    def end_token_id(self) -> int | None:
        """The id that ends a text; None where the tokenizer has none."""
        found: int | None = self._tokenizer.eos_token_id
        return found

    def encode(
        self,
        prompts: Sequence[Prompt],
        *,
        side: Literal["left", "right"],
        continuations: Sequence[str] | None = None,
    ) -> Any:
        """Return what the model's forward takes: ids and mask [B, S], padded at one side, and the images.

        `continuations`: text that follows each prompt, one per prompt.
        """
        texts = [self.render(prompt) for prompt in prompts]
        # a template that writes the beginning of the text itself must not have it written twice
        begin = self._tokenizer.bos_token
        begun = begin is not None and all(text.startswith(begin) for text in texts)
        if continuations is not None:
            texts = [text + end for text, end in zip(texts, continuations, strict=True)]
        return self._processor(
            text=texts,
            images=_nested([prompt.images for prompt in prompts]),
            return_tensors="pt",
            padding=True,
            padding_side=side,
            add_special_tokens=not begun,
        )

    def render(self, prompt: Prompt) -> str:
        """Return the prompt as text with a placeholder for each image, by the chat template if there is one.

        Raises UnsupportedModelError where the processor has neither a chat template nor an image token.
        """
        if getattr(self._processor, "chat_template", None) is not None:
            content: list[dict[str, str]] = [{"type": "image"} for _ in prompt.images]
            content.append({"type": "text", "text": prompt.text})
            text: str = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return text
        placeholder = getattr(self._processor, "image_token", None)
        if placeholder is None and prompt.images:
            name = type(self._processor).__name__
            raise UnsupportedModelError(f"{name} has neither a chat template nor an image token")
        return str(placeholder) * len(prompt.images) + prompt.text

    def num_tokens(self, prompt: Prompt, continuation: str) -> int:
        """Return how many tokens the continuation adds to the prompt. Raises ConfigError if it is none."""
        text = self.render(prompt)
        before, after = (
            len(self._tokenizer(part, add_special_tokens=False)["input_ids"])
            for part in (text, text + continuation)
        )
        if after <= before:
            raise ConfigError("continuation", continuation, "text of at least one token")
        return after - before

    def decode(self, ids_BS: Tensor) -> list[str]:
        """Return the text of each row, special tokens left out."""
        texts: list[str] = self._tokenizer.batch_decode(ids_BS, skip_special_tokens=True)
        return texts


def _nested(images: Sequence[Sequence[Any]]) -> list[Any] | None:
    """Return the images row by row; flat where a row has none, which nested lists cannot say to every processor."""
    if not any(images):
        return None
    return [list(row) for row in images] if all(images) else [image for row in images for image in row]
