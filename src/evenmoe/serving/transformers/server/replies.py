"""Replies: answers in OpenAI's form, whole or as events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["stop", "length"]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One prompt's answer, or the next piece of it. finish: why it ended; None: it goes on."""

    index: int
    text: str
    finish: Finish | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of prompts and answers."""

    prompt_tokens: int
    completion_tokens: int

    def body(self) -> dict[str, int]:
        """As OpenAI says it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The form of one request's answer."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        kind = "chat.completion" if self.chat else "text_completion"
        return self._body(kind, [self._choice(choice) for choice in choices]) | {"usage": usage.body()}

    def piece(self, choice: Choice, *, first: bool) -> bytes:
        """An event with more of one choice; a chat's first piece says who speaks."""
        return event(self._body(self._piece_kind, [self._piece(choice, first)]))

    def last(self, usage: Usage) -> bytes:
        """The event that tells the numbers of tokens."""
        return event(self._body(self._piece_kind, []) | {"usage": usage.body()})

    @property
    def _piece_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": choice.text}} if self.chat else {"text": choice.text}
        )
        return {"index": choice.index, **said, "logprobs": None, "finish_reason": choice.finish}

    def _piece(self, choice: Choice, first: bool) -> dict[str, Any]:
        if not self.chat:
            return self._choice(choice)
        delta = ({"role": "assistant"} if first else {}) | {"content": choice.text}
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": choice.finish}


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
