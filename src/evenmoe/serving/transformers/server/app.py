"""The HTTP application: OpenAI's completions and chats, health, and metrics."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from evenmoe.serving.observation.collector import metrics_page
from evenmoe.serving.transformers.errors import EngineError
from evenmoe.serving.transformers.server.answering import Answering, Question
from evenmoe.serving.transformers.server.bodies import ChatBody, CompletionBody, read_body
from evenmoe.serving.transformers.server.engine import Engine
from evenmoe.serving.transformers.server.options import ServerOptions
from evenmoe.serving.transformers.server.refusals import RefusalError, error_body
from evenmoe.serving.transformers.server.replies import DONE, Reply, Usage, event

logger = logging.getLogger(__name__)

MOST_BODY_BYTES = 16 * 2**20
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_ID = 128
CLOSED = 499
"""The answer to a client that went away: nobody reads it."""
_Result = TypeVar("_Result")


def make_app(engine: Engine, answering: Answering, options: ServerOptions) -> FastAPI:
    """The application around a started engine."""
    app = FastAPI(title="evenmoe", docs_url=None, redoc_url=None, openapi_url=None)
    served = _Served(engine, answering, options)
    app.add_api_route("/health", served.health, methods=["GET"])
    app.add_api_route("/metrics", served.metrics, methods=["GET"])
    app.add_api_route("/v1/models", served.models, methods=["GET"])
    app.add_api_route("/v1/completions", served.completions, methods=["POST"])
    app.add_api_route("/v1/chat/completions", served.chats, methods=["POST"])
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(EngineError, _failed)
    app.add_exception_handler(Exception, _broken)
    app.add_exception_handler(404, _unknown_path)
    app.add_exception_handler(405, _unknown_path)
    return app


class _Served:
    """What each path does."""

    def __init__(self, engine: Engine, answering: Answering, options: ServerOptions) -> None:
        self._engine, self._answering, self._options = engine, answering, options
        self._created = int(time.time())

    async def health(self) -> Response:
        if self._engine.ended is not None:
            return JSONResponse(error_body(503, self._engine.ended), 503)
        return Response()

    async def metrics(self) -> Response:
        return Response(metrics_page(self._engine.session), media_type=METRICS_TYPE)

    async def models(self, request: Request) -> Response:
        self._check_key(request)
        listed = {
            "id": self._options.name,
            "object": "model",
            "created": self._created,
            "owned_by": "evenmoe",
            "max_model_len": self._answering.most_tokens,
        }
        return JSONResponse({"object": "list", "data": [listed]})

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionBody)

    async def chats(self, request: Request) -> Response:
        return await self._answer(request, ChatBody)

    async def _answer(self, request: Request, kind: type[CompletionBody] | type[ChatBody]) -> Response:
        self._check_key(request)
        body = read_body(kind, request.headers.get("content-type"), await _content(request))
        if body.model != self._options.name:
            raise RefusalError(
                404, f"the model {body.model[:80]!r} does not exist; there is {self._options.name!r}", "model"
            )
        question = await self._answering.question(body)
        if self._engine.num_open + len(question.asked) > self._options.max_waiting:
            raise RefusalError(
                429,
                f"{self._engine.num_open} requests are open already, which is as many as this server holds",
            )
        reply = Reply(model=self._options.name, chat=kind is ChatBody, id=_id_of(request) or uuid.uuid4().hex)
        if body.streams:
            events = self._events(question, reply, body.tells_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        answer = await _unless_gone(request, self._answering.whole(question))
        if answer is None:
            return Response(status_code=CLOSED)
        return JSONResponse(reply.whole(*answer))

    async def _events(self, question: Question, reply: Reply, tells_usage: bool) -> AsyncGenerator[bytes]:
        """The events of a stream; an engine's end is its last one."""
        tokens = [0] * len(question.asked)
        begun: set[int] = set()
        try:
            async with aclosing(self._answering.pieces(question)) as pieces:
                async for piece in pieces:
                    index = piece.choice.index
                    tokens[index] = piece.num_tokens
                    yield reply.piece(piece.choice, first=index not in begun)
                    begun.add(index)
            if tells_usage:
                yield reply.last(Usage(prompt_tokens=question.prompt_tokens, completion_tokens=sum(tokens)))
        except EngineError as error:
            yield event(error_body(500, str(error)))
        yield DONE

    def _check_key(self, request: Request) -> None:
        key = self._options.api_key
        given = request.headers.get("authorization", "")
        if key is not None and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
            raise RefusalError(401, "this server wants its API key: Authorization: Bearer KEY")


def _id_of(request: Request) -> str | None:
    """The id that the client gave its request, cut to what a log line bears; the answer gives it back."""
    return (request.headers.get("x-request-id") or "")[:MOST_ID] or None


async def _content(request: Request) -> bytes:
    """The request's body. Raises RefusalError for one that is too large, before it is read whole."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MOST_BODY_BYTES:
                raise RefusalError(413, f"the body is larger than {MOST_BODY_BYTES} bytes")
            parts.append(part)
    except ClientDisconnect as error:
        raise RefusalError(CLOSED, "the client went away") from error
    return b"".join(parts)


async def _unless_gone(request: Request, answer: Awaitable[_Result]) -> _Result | None:
    """The answer, or None where its client has gone away meanwhile: then it is cancelled."""
    answering = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        for task in (answering, gone):
            task.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    return JSONResponse(error.body(), error.status)


async def _failed(_request: Request, error: Exception) -> Response:
    return JSONResponse(error_body(500, str(error)), 500)


async def _broken(_request: Request, _error: Exception) -> Response:
    """A defect of ours; the log has it."""
    return JSONResponse(error_body(500, "the server failed to answer this request"), 500)


async def _unknown_path(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    return JSONResponse(error_body(status, f"there is no {request.method} {request.url.path[:80]}"), status)
