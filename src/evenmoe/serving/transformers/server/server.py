"""Server: an engine behind HTTP, from start to a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from evenmoe.errors import ConfigError
from evenmoe.serving.launch.draining import Draining
from evenmoe.serving.transformers.errors import EngineError
from evenmoe.serving.transformers.server.answering import Answering
from evenmoe.serving.transformers.server.app import make_app
from evenmoe.serving.transformers.server.engine import Engine
from evenmoe.serving.transformers.server.options import ServerOptions
from evenmoe.serving.transformers.server.prompts import Prompts

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_WORDS_S = 5
"""How long answers that were cut short may take to go out."""


class Server:
    """One model's server, for one run. Raises ConfigError for an address that cannot be had."""

    def __init__(self, engine: Engine, tokenizer: Any, options: ServerOptions) -> None:
        self._engine, self._options = engine, options
        self._listener = _listening(options.host, options.port)
        prompts = Prompts(
            tokenizer,
            vocabulary=engine.vocabulary,
            most_tokens=engine.most_tokens,
            most_of_prompt=engine.max_batch_tokens if options.serving.routing.isolates_prompts else None,
        )
        takes_loads = options.serving.scheduling.predictor == "client"
        answering = Answering(engine, prompts, tokenizer, seed=options.seed, takes_loads=takes_loads)
        self._draining = Draining(make_app(engine, answering, options), stop=self._exit)
        self._http = _Http(
            uvicorn.Config(
                self._draining,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_LAST_WORDS_S,
            )
        )
        self._failure: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def serve(self, ready: Callable[[str], None] | None = None) -> None:
        """Serve until stopped, by `stop` or, in the main thread, by SIGTERM or SIGINT.

        Raises EngineError where the engine died, or accepted requests did not finish in time.
        """
        self._loop = asyncio.get_running_loop()
        url = self.url
        self._engine.start()
        watch = asyncio.create_task(self._watch())
        with self._signals():
            serving = asyncio.create_task(self._http.serve(sockets=[self._listener]))
            while not self._http.started and not serving.done():
                await asyncio.sleep(0.01)
            logger.info("listening on %s", url)
            if ready is not None:
                ready(url)
            await serving
        watch.cancel()
        if self._failure is not None:
            raise EngineError(self._failure)

    def stop(self) -> None:
        """As a signal does: accepted requests finish, the second time they do not. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._asked_to_stop)

    async def _watch(self) -> None:
        self._give_up(f"the engine stopped: {await self._engine.watch()}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        handled = []
        try:
            for number in _SIGNALS:
                self._loop.add_signal_handler(number, self._asked_to_stop)
                handled.append(number)
        except (ValueError, RuntimeError):
            logger.debug("not in the main thread: signals are left alone")
        try:
            yield
        finally:
            for number in handled:
                self._loop.remove_signal_handler(number)

    def _asked_to_stop(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._options.shutdown_timeout_s, self._out_of_time)
            self._draining.drain()
        elif self._engine.num_open:
            self._give_up(f"stopped at once: {self._engine.num_open} accepted requests were not finished")

    def _out_of_time(self) -> None:
        self._give_up(
            f"{self._engine.num_open} accepted requests were not finished {self._options.shutdown_timeout_s:g} s after "
            "the server was asked to stop"
        )

    def _give_up(self, reason: str) -> None:
        logger.error("%s", reason)
        self._failure = self._failure or reason
        self._engine.fail(reason)
        self._exit()

    def _exit(self) -> None:
        self._http.should_exit = True


class _Http(uvicorn.Server):  # type: ignore[misc]
    """uvicorn without its handlers of signals, which would close before accepted requests are answered."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to us."""
        yield


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is bound; it listens when requests can be answered."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        allowed = f"an address of this machine with a free port ({error.strerror or error})"
        raise ConfigError("host and port", f"{host}:{port}", allowed) from error
    return listener
