"""Texts: a request's new tokens as text, piece by piece, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"
"""What a decoder puts where bytes of a character are missing."""


class Detokenizer:
    """Turns tokens into text as they come: all pieces together are the text of all tokens.

    A character may need several tokens, and a token's text may depend on the one before it, so a piece is what a few of
    the last tokens add to the text before them, and waits until it ends in a whole character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._begin = self._told = 0

    def add(self, ids: Sequence[int]) -> str:
        """Return the text that these tokens add, as far as it is certain."""
        pieces = []
        for token in ids:
            self._ids.append(token)
            pieces.append(self._piece(whole=True))
        return "".join(pieces)

    def flush(self) -> str:
        """Return what is left when no token follows."""
        return self._piece(whole=False)

    def _piece(self, whole: bool) -> str:
        before = self._text(self._ids[self._begin : self._told])
        text = self._text(self._ids[self._begin :])
        if len(text) <= len(before) or (whole and text.endswith(_UNFINISHED)):
            return ""
        self._begin, self._told = self._told, len(self._ids)
        return text[len(before) :]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Cuts a text that comes in pieces before the stop string that is complete first."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """Return the text that can be told: not what may be the beginning of a stop string."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, when no text follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next(size for size in range(min(len(stop) - 1, len(text)), -1, -1) if text.endswith(stop[:size]))
