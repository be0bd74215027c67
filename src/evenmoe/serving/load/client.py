"""The open-loop client: each request goes out when it is due, however many are still unanswered."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from evenmoe.errors import ConfigError
from evenmoe.serving.load.answer import Answer, message_of
from evenmoe.serving.load.plan import Planned
from evenmoe.serving.load.record import Outcome, Record
from evenmoe.simulation.checks import check_number

Progress = Callable[[Record], None]
"""Told of each request that has come to an end."""

AFTER_DONE_S = 1.0
"""How long a stream may stay open after its end before the client hangs up."""

IDLE_CONNECTION_S = 1.0
"""How long a connection is kept for the next request: less than any server does, as one that both ends drop at the same
moment looks like a lost request."""


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

    Each is sent under an id of its own (X-Request-Id). Cancelled (Ctrl-C), the open requests are dropped and told to
    `progress` as interrupted, and nothing is returned.
    """
    limits = httpx2.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_CONNECTION_S
    )
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
        self._id = secrets.token_hex(4)
        self._start = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start

    async def send(self, index: int, planned: Planned) -> Record:
        await asyncio.sleep(planned.at_s - self.now())
        answer = Answer(self.now)
        sent_s, request_id = self.now(), f"{self._id}-{index:06d}"
        outcome: Outcome = "interrupted"
        error = ""
        try:
            outcome, error = await self._outcome(planned, request_id, answer)
        finally:  # also when cancelled: what was open then is told as interrupted
            record = Record(
                index=index,
                id=request_id,
                topic=planned.topic,
                planned_s=planned.at_s,
                sent_s=sent_s,
                ended_s=self.now() if answer.done_s is None else answer.done_s,
                outcome=outcome,
                error=error,
                **answer.fields(),
            )
            if self._progress:
                self._progress(record)
        return record

    async def _outcome(self, planned: Planned, request_id: str, answer: Answer) -> tuple[Outcome, str]:
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await self._exchange(planned, request_id, answer)
        except TimeoutError:
            if answer.done_s is not None:  # it had ended, and the stream stayed open
                return "finished", ""
            return "timeout", f"no end within {self._options.timeout_s:g} s"
        except (httpx2.RemoteProtocolError, httpx2.ReadError) as error:
            return ("cut" if answer.status == 200 else "failed"), _words(error)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return "failed", _words(error)

    async def _exchange(self, planned: Planned, request_id: str, answer: Answer) -> tuple[Outcome, str]:
        body, headers = self._options.body(planned), {"X-Request-Id": request_id}
        async with self._http.stream("POST", self._options.endpoint, json=body, headers=headers) as response:
            answer.status = response.status_code
            if response.status_code != 200:
                said = (await response.aread()).decode("utf-8", "replace").strip()
                outcome: Outcome = "refused" if 400 <= response.status_code < 500 else "failed"
                return outcome, f"HTTP {response.status_code}: {message_of(said)}"
            events = aiter(httpx2.EventSource(response))
            async for event in events:
                error = answer.take(event.data)
                if error:
                    return "failed", error
                if answer.done_s is not None:
                    await _take_what_follows(events, answer)
                    return "finished", ""
        return "cut", "the stream ended before [DONE]"


async def _take_what_follows(events: AsyncIterator[Any], answer: Answer) -> None:
    """Read on after [DONE], where nothing should come: a second answer would."""
    with contextlib.suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(AFTER_DONE_S):
            async for event in events:
                answer.take(event.data)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
