"""Draining: an ASGI middleware that lets accepted requests finish before the server inside it is told to stop.

vLLM's own drain closes its tokenizers as it begins, so that requests which it has read but not yet tokenized, and those
that come in the meantime, fail in unclear ways. Here the engine runs on until the last answer is
out, and new requests are told why they are refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

logger = logging.getLogger("uvicorn.error")  # the server's own: ours has no handler in vLLM's processes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAINED = "Every accepted request is answered"
"""Logged when no accepted request is left, before the server is stopped."""
ALWAYS_ANSWERED = ("/metrics",)
"""Paths that are answered while draining too, and that nothing waits for."""
REFUSAL = {
    "error": {
        "message": "The server is shutting down and takes no new requests.",
        "type": "service_unavailable",
        "code": 503,
    }
}


class Draining:
    """Counts requests in flight. On SIGTERM it refuses new ones with 503; when the last has been answered, it stops.

    A request is accepted once its whole body has been read, so that no client can hold up the end by not sending it.
    It takes SIGTERM over from the server when that starts up, and stops it by `stop`, by default a SIGINT to this
    process, of which uvicorn and vLLM make an orderly end.
    """

    def __init__(self, app: App, stop: Callable[[], None] | None = None) -> None:
        self._app = app
        self._stop = stop or _interrupt_this_process
        self._open: set[_Request] = set()
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, self._listening(receive), send)
        elif scope["type"] != "http" or scope["path"].rstrip("/") in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
        elif self._draining:
            await _refuse(send)
        else:
            await self._count(scope, receive, send)

    def drain(self) -> None:
        """Take no new requests, and stop when those in flight are answered."""
        if self._draining:
            return
        self._draining = True
        for request in self._open:
            if not request.is_accepted:
                request.refuse()
        accepted = sum(request.is_accepted for request in self._open)
        logger.warning("Stopping: %d accepted requests finish first, new ones are refused", accepted)
        self._stop_if_drained()

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _Request(has_body=_has_body(scope))
        self._open.add(request)
        try:
            await self._app(scope, request.noting_body(receive), self._closing(request.noting_answer(send)))
        except asyncio.CancelledError:
            if not request.is_refused:
                raise
            request.task.uncancel()
            await _refuse(send)
        finally:
            self._open.discard(request)
            self._stop_if_drained()

    def _stop_if_drained(self) -> None:
        if self._draining and not self._open:
            logger.warning(DRAINED)
            self._stop()

    def _closing(self, send: Send) -> Send:
        """Answers that begin while draining tell the client to take its next request elsewhere."""

        async def closing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self._draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        return closing

    def _listening(self, receive: Receive) -> Receive:
        """Take over SIGTERM at startup, after the server has set its own handler."""

        async def listening() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "lifespan.startup":
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.drain)
            return message

        return listening


class _Request:
    """One open request: accepted once its body is whole or its answer has begun."""

    def __init__(self, *, has_body: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.is_accepted = not has_body
        self.is_refused = False

    def refuse(self) -> None:
        """Interrupt the app, which waits for the body."""
        self.is_refused = True
        self.task.cancel()

    def noting_body(self, receive: Receive) -> Receive:
        """`receive`, which sees the end of the body go by."""

        async def noting() -> MutableMapping[str, Any]:
            message = await receive()
            self.is_accepted |= message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return noting

    def noting_answer(self, send: Send) -> Send:
        """`send`, which sees the answer begin."""

        async def noting(message: MutableMapping[str, Any]) -> None:
            self.is_accepted = True
            await send(message)

        return noting


def _has_body(scope: Scope) -> bool:
    headers = dict(scope.get("headers", ()))
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def _refuse(send: Send) -> None:
    body = json.dumps(REFUSAL).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"5"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _interrupt_this_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)
