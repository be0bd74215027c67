"""What a vision-language model is asked, and what is said of a continuation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question about images; they stand before its text, in the order given. Raises ConfigError for no new token."""

    text: str
    images: tuple[Image.Image, ...]
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError("max_new_tokens", self.max_new_tokens, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How likely a continuation is: the sum of its tokens' log-probabilities, and whether greedy decoding gives it."""

    logprob: float
    is_greedy: bool
    num_tokens: int


def fingerprint(prompts: Sequence[Prompt], continuations: Sequence[str] = ()) -> str:
    """Return 32 hex digits that name the prompts: texts, images to the pixel, limits, and their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.text}\0{prompt.max_new_tokens}\0{len(prompt.images)}\0".encode())
        for image in prompt.images:
            digest.update(f"{image.mode}{image.size}".encode())
            digest.update(image.tobytes())
    for text in continuations:
        digest.update(f"{text}\0".encode())
    return digest.hexdigest()[:32]
