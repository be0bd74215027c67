"""Near-duplicates: runs of words that training and held-out text share."""

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def run_hashes(text: str, num_words: int) -> npt.NDArray[np.uint64]:
    """One 64-bit hash for each run of `num_words` successive words (case and punctuation do not count)."""
    words = [word.encode() for word in _WORD.findall(text.lower())]
    if len(words) < num_words:
        return np.zeros(0, np.uint64)
    ids = np.array([zlib.crc32(word) | (zlib.crc32(word, 1) << 32) for word in words], np.uint64)
    num_runs = len(ids) - num_words + 1
    hashes = np.zeros(num_runs, np.uint64)
    for i in range(num_words):
        hashes = hashes * _FACTOR + (ids[i : i + num_runs] ^ (ids[i : i + num_runs] >> np.uint64(31)))
    return hashes


def sorted_run_hashes(texts: Iterable[str], num_words: int) -> npt.NDArray[np.uint64]:
    """The distinct run hashes of many texts, sorted."""
    parts = [run_hashes(text, num_words) for text in texts]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def shared_fraction(texts: Sequence[str], train_hashes: npt.NDArray[np.uint64], num_words: int) -> float:
    """Share of the texts' word runs that training text holds too."""
    hashes = sorted_run_hashes(texts, num_words)
    return float(_contained(hashes, train_hashes).mean()) if len(hashes) else 0.0


def drop_shared_passages(
    text: str, train_hashes: npt.NDArray[np.uint64], num_words: int, separator: str
) -> str:
    """The text without the passages that complete a run of `num_words` words which training text holds.

    A passage is checked together with the kept words before it, so what remains shares no run at all.
    """
    kept: list[str] = []
    tail: list[str] = []
    for passage in text.split(separator):
        words = [*tail, *_WORD.findall(passage)]
        if not _contained(run_hashes(" ".join(words), num_words), train_hashes).any():
            kept.append(passage)
            tail = words[-(num_words - 1) :]
    return separator.join(kept)


def _contained(
    hashes: npt.NDArray[np.uint64], sorted_hashes: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    if not len(sorted_hashes):
        return np.zeros(len(hashes), bool)
    places = np.searchsorted(sorted_hashes, hashes).clip(max=len(sorted_hashes) - 1)
    found: npt.NDArray[np.bool_] = sorted_hashes[places] == hashes
    return found
