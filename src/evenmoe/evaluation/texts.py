"""Text to measure on: the held-out text that ships, or the user's own files, cut into windows of equal length.

Shape letters: B windows, S tokens per window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of one domain's text: token ids [S] and the UTF-8 bytes of the S - 1 tokens to be predicted."""

    domain: str
    ids_S: NDArray[np.int64]
    num_bytes: int


def read_texts(paths: Sequence[str | Path]) -> dict[str, str]:
    """Text by domain: each file is one domain named after its stem.

    Raises ConfigError for a missing, unreadable, empty or non-UTF-8 file and for two files of one name.
    """
    texts: dict[str, str] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise ConfigError("text", str(path), "a file that exists")
        if path.stem in texts:
            raise ConfigError("text", str(path), f"one file per domain; {path.stem!r} is there already")
        try:
            texts[path.stem] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                "text", str(path), f"UTF-8 text ({error.reason} at byte {error.start})"
            ) from error
        if not texts[path.stem].strip():
            raise ConfigError("text", str(path), "a file that holds some text")
    if not texts:
        raise ConfigError("text", [], "at least one file")
    return texts


def heldout_texts() -> dict[str, str]:
    """The held-out text that ships with the bundled text model, by domain in alphabetical order."""
    from evenmoe.models.bundled import bundled_path

    return read_texts(sorted((bundled_path("text") / "heldout").glob("*.txt")))


def cut_windows(
    texts: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_windows: int,
    window_tokens: int,
) -> list[Window]:
    """`num_windows` windows of `window_tokens` tokens, as evenly as possible from every domain, spread over its text.

    The order interleaves the domains: the first window of each, then the second of each, and so on.
    Raises ConfigError if a domain's text is too short for its share.
    """
    share = _shares(num_windows, len(texts))
    by_domain = [
        _domain_windows(domain, text, tokenizer, count, window_tokens)
        for (domain, text), count in zip(texts.items(), share, strict=True)
    ]
    return [windows[i] for i in range(max(share)) for windows in by_domain if i < len(windows)]


def num_fitting(texts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, window_tokens: int) -> int:
    """How many windows `cut_windows` can cut, with as many from every domain as the shortest one gives."""
    fewest = min(len(_encode(tokenizer, text)["input_ids"]) // window_tokens for text in texts.values())
    return fewest * len(texts)


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _domain_windows(domain: str, text: str, tokenizer: Any, count: int, window_tokens: int) -> list[Window]:
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False
    )
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    if count * window_tokens > len(ids):
        raise ConfigError(
            "tokens per domain",
            count * window_tokens,
            f"at most the {len(ids)} tokens of {domain!r}; ask for fewer or shorter windows, or give more text",
        )
    spacing = len(ids) // max(count, 1)
    windows = []
    for start in range(0, count * spacing, spacing):
        stop = start + window_tokens
        predicted = _text_of(text, tokenizer, encoded, ids, start + 1, stop)
        windows.append(Window(domain=domain, ids_S=ids[start:stop], num_bytes=len(predicted.encode())))
    return windows


def _encode(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)


def _text_of(text: str, tokenizer: Any, encoded: Any, ids: NDArray[np.int64], start: int, stop: int) -> str:
    """The text of tokens start..stop; by offsets where the tokenizer has them, which counts cut characters right."""
    if tokenizer.is_fast:
        offsets = encoded["offset_mapping"]
        return text[offsets[start][0] : offsets[stop - 1][1]]
    return str(tokenizer.decode(ids[start:stop]))
