"""Prompts: what a client asks, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evenmoe.serving.transformers.server.bodies import ChatMessage
from evenmoe.serving.transformers.server.refusals import RefusalError, wrong

MOST_PROMPTS = 256
_ALLOWED = "a text, a list of token ids, or a list of either"


class Prompts:
    """Turns prompts into token ids that the model can take.

    vocabulary: number of token ids. most_tokens: of a prompt and its answer together.
    most_of_prompt: of a prompt, where less.
    """

    def __init__(
        self, tokenizer: Any, *, vocabulary: int, most_tokens: int, most_of_prompt: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.most_tokens = most_tokens
        self._most_of_prompt = min(most_tokens - 1, most_of_prompt or most_tokens)
        self._most_characters = self._most_of_prompt * max(map(len, tokenizer.get_vocab()))

    def of_completion(self, prompt: Any) -> list[list[int]]:
        """[prompts][tokens] of one text, one list of ids, or a list of either. Raises RefusalError."""
        if isinstance(prompt, str):
            prompts: list[Any] = [prompt]
        elif isinstance(prompt, list) and prompt and all(_is_int(part) for part in prompt):
            prompts = [prompt]
        elif isinstance(prompt, list) and prompt and all(isinstance(part, str | list) for part in prompt):
            prompts = prompt
        else:
            raise wrong("prompt", prompt, _ALLOWED + ", at least one")
        if len(prompts) > MOST_PROMPTS:
            raise wrong("prompt", f"{len(prompts)} prompts", f"at most {MOST_PROMPTS}")
        return [self._ids(part) for part in prompts]

    def of_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """[tokens] of a chat, up to where the answer begins. Raises RefusalError, also without a chat template."""
        if not getattr(self._tokenizer, "chat_template", None):
            raise RefusalError(
                400,
                "this model's tokenizer has no chat template, so messages cannot be made a prompt: use /v1/completions",
                "messages",
            )
        told = [message.model_dump(exclude_none=True) for message in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template may refuse what it is given, by whatever exception
            raise RefusalError(
                400, f"messages: the chat template refuses them: {error}"[:200], "messages"
            ) from error
        return self._encoded("messages", text, add_special_tokens=False)

    def _ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self._encoded("prompt", prompt, add_special_tokens=True)
        for token in prompt:
            if not _is_int(token):
                raise wrong("prompt", token, _ALLOWED)
            if not 0 <= token < self._vocabulary:
                raise wrong(
                    "prompt",
                    token,
                    f"token ids of the vocabulary, from 0 to {self._vocabulary - 1}; there are {self._vocabulary}",
                )
        return self._checked("prompt", prompt)

    def _encoded(self, field: str, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) > self._most_characters:  # not worth tokenizing: every token is shorter
            raise RefusalError(
                400,
                f"{field} has {len(text)} characters, more than {self._most_of_prompt} tokens can hold: "
                f"the model's context length is {self.most_tokens}, answer included",
                field,
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise wrong(field, text[error.start : error.end], "text of whole Unicode characters") from error
        return self._checked(field, self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def _checked(self, field: str, ids: list[int]) -> list[int]:
        if not ids:
            raise wrong(field, [], "at least one token")
        if len(ids) > self._most_of_prompt:
            raise RefusalError(
                400,
                f"{field} has {len(ids)} tokens, at most {self._most_of_prompt} are allowed: "
                f"the model's context length is {self.most_tokens}, answer included",
                field,
            )
        return ids


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
