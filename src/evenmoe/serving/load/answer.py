"""Answer: what has come of one answer so far, event by event."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_SAID = 200
"""Letters of a server's message that are kept."""


class Answer:
    """Reads the events of one stream. `now` gives seconds since the start of the run."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.status: int | None = None
        self.done_s: float | None = None
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._num_prompt_tokens = self._num_tokens = self._num_pieces = 0
        self._ids: dict[str, None] = {}
        self._num_ends = 0
        self._goes_on = False

    def take(self, event: str) -> str:
        """Take one event; return what the server says went wrong, or ""."""
        if event == "[DONE]":
            self.done_s = self._now() if self.done_s is None else self.done_s
            return ""
        try:
            body = json.loads(event)
        except ValueError:
            return f"an event that is no JSON: {event[:80]!r}"
        if not isinstance(body, dict):
            return f"an event that is no object: {event[:80]!r}"
        if "error" in body:
            return message_of(event)
        try:
            self._take_body(body)
        except (AttributeError, TypeError, ValueError):
            return f"an event of another form than OpenAI's: {event[:80]!r}"
        return ""

    def _take_body(self, body: dict[str, Any]) -> None:
        if isinstance(body.get("id"), str):
            self._ids[body["id"]] = None
        for choice in body.get("choices") or ():
            self._take_choice(choice)
        usage = body.get("usage") or {}
        self._num_prompt_tokens = int(usage.get("prompt_tokens", self._num_prompt_tokens))
        self._num_tokens = int(usage.get("completion_tokens", self._num_tokens))

    def _take_choice(self, choice: dict[str, Any]) -> None:
        if choice.get("text") or (choice.get("delta") or {}).get("content"):
            self._goes_on |= self._num_ends > 0 or self.done_s is not None
            self._last_s = self._now()
            self._first_s = self._last_s if self._first_s is None else self._first_s
            self._num_pieces += 1
        self._num_ends += choice.get("finish_reason") is not None

    def fields(self) -> dict[str, Any]:
        """What a Record holds of it. A server that gives no usage counts as one token a piece."""
        return {
            "status": self.status,
            "first_s": self._first_s,
            "last_s": self._last_s,
            "num_prompt_tokens": self._num_prompt_tokens,
            "num_tokens": self._num_tokens or self._num_pieces,
            "answer_ids": tuple(self._ids),
            "num_answers": max(self._num_ends, int(self.done_s is not None)) + self._goes_on,
        }


def message_of(said: str) -> str:
    """The message of an error as OpenAI-compatible servers wrap it, else what was said, as a line of plain text."""
    try:
        body = json.loads(said)
    except ValueError:
        return _line(said)
    inner = body.get("error", body) if isinstance(body, dict) else body
    return _line(str(inner.get("message", inner) if isinstance(inner, dict) else inner))


def _line(text: str) -> str:
    """What a terminal may be shown of a stranger's words."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:MOST_SAID]).strip()
