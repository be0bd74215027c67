"""lmms-eval's requests as prompts: what is asked, with which images, and how the answer ends."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from PIL import Image

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.vision.prompts import Prompt

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 128
"""Where a task says nothing of it."""

_LLAVA_ONLY = ("image_aspect_ratio",)
_WITHOUT_EFFECT = ("top_p", "top_k", "typical_p", "min_p")
"""What shapes sampling does nothing to greedy decoding."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an answer ends: after so many tokens, or before the first of these texts."""

    max_new_tokens: int
    until: tuple[str, ...] = ()

    def cut(self, answer: str) -> str:
        """Return the answer up to the first text that ends it."""
        for stop in self.until:
            answer = answer.split(stop, 1)[0]
        return answer.strip()


def by_task(requests: Sequence[Any]) -> Iterator[tuple[str, list[int], list[Any]]]:
    """Give each task's requests in lmms-eval's order, with their places among all requests."""
    places = range(len(requests))
    for task, group in groupby(places, key=lambda place: requests[place].task_name):
        chosen = list(group)
        yield task, chosen, [requests[place] for place in chosen]


def ending_of(task: str, options: Mapping[str, Any]) -> Ending:
    """Read a task's generation options. Raises ConfigError for those that ask for anything but greedy decoding."""
    options = dict(options)
    until = options.pop("until", None) or ()
    limit = options.pop("max_new_tokens", None) or MAX_NEW_TOKENS
    do_sample, temperature = options.pop("do_sample", None), options.pop("temperature", None)
    if do_sample or (do_sample is None and temperature):
        raise ConfigError(
            f"{task}: temperature",
            temperature,
            "0: answers are greedy (--gen_kwargs temperature=0,do_sample=False)",
        )
    if (beams := options.pop("num_beams", 1)) not in (None, 1):
        raise ConfigError(f"{task}: num_beams", beams, "1: answers are greedy")
    for name in [name for name in options if name not in _WITHOUT_EFFECT]:
        if name not in _LLAVA_ONLY:
            raise ConfigError(f"{task}: generation option {name}", options[name], "left out: it is not known")
        logger.info("%s: %s=%s is for LLaVA models and does nothing here", task, name, options[name])
    return Ending(max_new_tokens=int(limit), until=(until,) if isinstance(until, str) else tuple(until))


def images_of(task: str, visuals: Iterable[Any] | None) -> tuple[Image.Image, ...]:
    """Check what a task shows with a question. Raises UnsupportedModelError for videos and sound."""
    images = tuple(visuals or ())
    for shown in images:
        if not isinstance(shown, Image.Image):
            kind = (
                "a video"
                if isinstance(shown, str)
                else "sound"
                if _is_sound(shown)
                else f"a {type(shown).__name__}"
            )
            raise UnsupportedModelError(f"{task} shows {kind}: the model evenmoe takes images and text only")
    return images


def prompt_of(request: Any, documents: Mapping[str, Any], max_new_tokens: int = 1) -> Prompt:
    """Return what a request of generate_until or loglikelihood asks.

    documents: the loaded data of each task, by split (lmms-eval's `task_dict`).
    """
    text, _, doc_to_visual, doc_id, task, split = request.args
    visuals = doc_to_visual(documents[task][split][doc_id])
    return Prompt(text=text, images=images_of(task, visuals), max_new_tokens=max_new_tokens)


def continuation_of(request: Any, documents: Mapping[str, Any]) -> str:
    """Return the text whose likelihood a request of loglikelihood asks for."""
    _, continuation, _, doc_id, task, split = request.args
    return str(continuation(documents[task][split][doc_id]) if callable(continuation) else continuation)


def _is_sound(shown: Any) -> bool:
    return isinstance(shown, Mapping) and "array" in shown
