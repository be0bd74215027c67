"""The open-loop client: each request goes out when it is due, however many are still unanswered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from evenmoe.errors import ConfigError
from evenmoe.serving.load.plan import Planned
from evenmoe.serving.load.record import Outcome, Record
from evenmoe.simulation.checks import check_number

Progress = Callable[[Record], None]
"""Told of each request that has come to an end."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How requests are sent.

    chat: through /v1/chat/completions instead of /v1/completions.
    ignore_eos: ask for exactly `max_tokens` tokens, which vLLM and `evenmoe serve` understand.
    timeout_s: for a whole request. extra: more fields of each request's body.
    """

    url: str
    model: str
    chat: bool = False
    ignore_eos: bool = False
    timeout_s: float = 300.0
    temperature: float = 0.0
    api_key: str | None = None
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError("url", self.url, "an address that begins with http:// or https://")
        check_number("timeout_s", self.timeout_s, 0.0, above=True)
        check_number("temperature", self.temperature, 0.0)

    @property
    def endpoint(self) -> str:
        """The address that requests are posted to."""
        base = self.url.rstrip("/").removesuffix("/v1")
        return f"{base}/v1/chat/completions" if self.chat else f"{base}/v1/completions"

    def body(self, planned: Planned) -> dict[str, Any]:
        """One request as the server takes it."""
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": planned.text}]}
            if self.chat
            else {"prompt": planned.text}
        )
        asked |= {
            "model": self.model,
            "max_tokens": planned.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            asked["ignore_eos"] = True
        return asked | (self.extra or {})


async def served_model(url: str, api_key: str | None = None) -> str:
    """The name of the first model that the server lists. Raises ConfigError where nothing answers as it should."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        async with httpx2.AsyncClient(timeout=10, headers=_headers(api_key)) as http:
            answer = await http.get(f"{base}/v1/models")
            answer.raise_for_status()
            return str(answer.json()["data"][0]["id"])
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, LookupError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError("url", url, f"a server that lists its models at /v1/models ({reason})") from error


async def run_load(
    plan: Sequence[Planned], options: ClientOptions, progress: Progress | None = None
) -> tuple[list[Record], float]:
    """Send every request when it is due; return the records in order of the plan, and the seconds of the run.

    Cancelled (Ctrl-C), the open requests are dropped and nothing is returned: what had ended was told to `progress`.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx2.Timeout(None)  # a request's own limit is kept below, over all its parts
    async with httpx2.AsyncClient(limits=limits, timeout=timeout, headers=_headers(options.api_key)) as http:
        run = _Run(http, options, progress)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run.send(index, planned)) for index, planned in enumerate(plan)]
        return [task.result() for task in tasks], run.now()


class _Run:
    """One run's clock and connection."""

    def __init__(self, http: httpx2.AsyncClient, options: ClientOptions, progress: Progress | None) -> None:
        self._http, self._options, self._progress = http, options, progress
        self._start = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start

    async def send(self, index: int, planned: Planned) -> Record:
        await asyncio.sleep(planned.at_s - self.now())
        reply = _Reply(self.now)
        sent_s = self.now()
        outcome, error = await self._outcome(planned, reply)
        record = Record(
            index=index,
            topic=planned.topic,
            planned_s=planned.at_s,
            sent_s=sent_s,
            ended_s=self.now(),
            outcome=outcome,
            error=error,
            **reply.fields(),
        )
        if self._progress:
            self._progress(record)
        return record

    async def _outcome(self, planned: Planned, reply: _Reply) -> tuple[Outcome, str]:
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await self._exchange(planned, reply)
        except TimeoutError:
            return "timeout", f"no end within {self._options.timeout_s:g} s"
        except (httpx2.RemoteProtocolError, httpx2.ReadError) as error:
            return ("cut" if reply.status == 200 else "failed"), _words(error)
        except httpx2.HTTPError as error:
            return "failed", _words(error)

    async def _exchange(self, planned: Planned, reply: _Reply) -> tuple[Outcome, str]:
        body = self._options.body(planned)
        async with self._http.stream("POST", self._options.endpoint, json=body) as answer:
            reply.status = answer.status_code
            if answer.status_code != 200:
                said = (await answer.aread()).decode("utf-8", "replace").strip()
                outcome: Outcome = "refused" if 400 <= answer.status_code < 500 else "failed"
                return outcome, f"HTTP {answer.status_code}: {_message(said)}"
            async for event in httpx2.EventSource(answer):
                if event.data == "[DONE]":
                    return "finished", ""
                error = reply.take(event.data)
                if error:
                    return "failed", error
        return "cut", "the stream ended before [DONE]"


class _Reply:
    """What has come of one answer so far."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.status: int | None = None
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.num_prompt_tokens = self.num_tokens = self._pieces = 0

    def take(self, event: str) -> str:
        """Take one event; return what the server says went wrong, or ""."""
        try:
            body = json.loads(event)
        except ValueError:
            return f"an event that is no JSON: {event[:80]!r}"
        if "error" in body:
            return _message(event)
        if any(_text(choice) for choice in body.get("choices", ())):
            self.last_s = self._now()
            self.first_s = self.last_s if self.first_s is None else self.first_s
            self._pieces += 1
        usage = body.get("usage") or {}
        self.num_prompt_tokens = usage.get("prompt_tokens", self.num_prompt_tokens)
        self.num_tokens = usage.get("completion_tokens", self.num_tokens)
        return ""

    def fields(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "first_s": self.first_s,
            "last_s": self.last_s,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_tokens": self.num_tokens or self._pieces,
        }


def _text(choice: dict[str, Any]) -> str:
    return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")


def _message(said: str) -> str:
    """The message of an error as OpenAI-compatible servers wrap it, else what was said, cut to a line."""
    try:
        body = json.loads(said)
    except ValueError:
        return said[:200]
    inner = body.get("error", body) if isinstance(body, dict) else body
    message = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(message)[:200]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
