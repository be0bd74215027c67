"""Bodies: what clients may ask for, checked field by field."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evenmoe.serving.transformers.server.refusals import RefusalError, wrong

MOST_STOPS = 16
_Positive = Annotated[int, Field(ge=1)]
_Finite = Field(allow_inf_nan=False)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(_Part):
    """What a stream tells besides tokens."""

    include_usage: bool = False


class _Asked(_Part):
    """What completions and chats have in common. What cannot act is allowed at the value that asks for nothing."""

    model: str
    max_tokens: _Positive | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    priority: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    vllm_xargs: dict[str, Any] | None = None
    user: str | None = None
    n: Literal[1] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def streams(self) -> bool:
        """Whether tokens are told as they come."""
        return bool(self.stream)

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises RefusalError for an empty one, or too many."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MOST_STOPS or not all(stops):
            raise wrong("stop", self.stop, f"a text, or at most {MOST_STOPS} texts, none of them empty")
        return tuple(stops)


class CompletionBody(_Asked):
    """The body of /v1/completions."""

    prompt: Any
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None
    suffix: None = None


class ChatMessage(_Part):
    """One message of a chat."""

    role: Annotated[str, Field(min_length=1)]
    content: str
    name: str | None = None


class ChatBody(_Asked):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: _Positive | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


Body = TypeVar("Body", bound=BaseModel)


def read_body(kind: type[Body], content_type: str | None, content: bytes) -> Body:
    """The body that a client sent. Raises RefusalError that names the first field that is wrong."""
    media = (content_type or "").split(";")[0].strip().lower()
    if media != "application/json":
        raise RefusalError(
            415, f"the body must be application/json, not {media[:40] or 'without a content type'}"
        )
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, f"the body is no JSON: {str(error)[:120]}") from error
    if not isinstance(parsed, dict):
        raise RefusalError(400, "the body is no JSON object")
    try:
        return kind.model_validate(parsed)
    except ValidationError as error:
        raise _refusal(error, kind) from error


def _refusal(error: ValidationError, kind: type[BaseModel]) -> RefusalError:
    first = error.errors(include_url=False)[0]
    path = (
        first["loc"][:1] if first["loc"][:1] == ("stop",) else first["loc"]
    )  # not which of its types it missed
    field = ".".join(map(str, path)) or "a field's name"
    if first["type"] == "extra_forbidden":
        return wrong(
            field, first["input"], "no such field; there are " + ", ".join(sorted(kind.model_fields))
        )
    if first["type"] == "missing":
        return RefusalError(400, f"{field} is missing", field)
    return wrong(field, first["input"], str(first["msg"]).removeprefix("Value error, "))
