"""Engine: transformers' continuous batching in its thread, and the requests that wait for its tokens."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter

from evenmoe.errors import ConfigError
from evenmoe.serving.transformers.batching import batching_config
from evenmoe.serving.transformers.configuring import NOTHING, Note
from evenmoe.serving.transformers.errors import EngineError
from evenmoe.serving.transformers.server.options import (
    BATCHED_TOKENS,
    MOST_BATCHED_TOKENS,
    MOST_CACHE_TOKENS,
    ServerOptions,
)
from evenmoe.serving.transformers.server.sampling import GREEDY, Sampling, sampling_processors
from evenmoe.serving.transformers.session import ServingSession

logger = logging.getLogger(__name__)

MOST_RUNNING = 32
"""Requests that run at once, unless asked otherwise."""
PAGE_TOKENS = 16
LOOK_S = 0.1
"""How often the engine's thread is looked after."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one prompt asks of the engine."""

    ids: Sequence[int]
    max_tokens: int
    sampling: Sampling = GREEDY
    ignore_eos: bool = False
    note: Note = NOTHING


class Engine:
    """A model that generates in a thread of its own, from `start` to `stop`, for coroutines of one event loop.

    most_tokens: of a prompt and its answer.
    Raises what ServingSession raises, and ConfigError where the scheduler cannot be.
    """

    def __init__(self, model: Any, options: ServerOptions, *, most_tokens: int) -> None:
        serving = options.serving
        num_running = options.max_num_seqs or MOST_RUNNING
        self.most_tokens = most_tokens
        self.vocabulary: int = model.get_input_embeddings().num_embeddings
        self.max_batch_tokens = max(_batch_tokens(options, most_tokens), num_running)
        num_pages = _cache_pages(options, most_tokens, num_running)
        self.session = ServingSession(model, serving)
        try:
            self._ends = _ends(model)
            self._manager = model.init_continuous_batching(
                generation_config=GenerationConfig(
                    do_sample=False, eos_token_id=sorted(self._ends) or -1, pad_token_id=0
                ),
                continuous_batching_config=batching_config(
                    ContinuousBatchingConfig(
                        page_size=PAGE_TOKENS,
                        num_blocks=num_pages,
                        max_batch_tokens=self.max_batch_tokens,
                        max_requests_per_batch=num_running,
                        allow_block_sharing=not serving.routing.isolates_prompts,
                    ),
                    serving,
                ),
            )
            self._manager.output_router = _Router(self._deliver)
            self._manager.logit_processor = sampling_processors()
            self._manager.warmup()
        except MemoryError as error:
            self.session.close()
            allowed = f"as many as there is memory for, or a smaller max_num_batched_tokens ({error})"
            raise ConfigError("cache_tokens", num_pages * PAGE_TOKENS, allowed) from error
        except BaseException:
            self.session.close()
            raise
        self._open: dict[str, asyncio.Queue[Any]] = {}
        self._ended: str | None = None

    @property
    def num_open(self) -> int:
        """Requests that are not answered yet, waiting and running."""
        return len(self._open)

    @property
    def ended(self) -> str | None:
        """Why the engine generates no more; None while it does."""
        return self._ended

    def start(self) -> None:
        """Start the thread. Called in the event loop that the requests will come from."""
        self._loop = asyncio.get_running_loop()
        self._manager.start()

    async def watch(self) -> str:
        """Return why the thread has ended, when it has; every open request is told."""
        while self._manager.is_running():
            await asyncio.sleep(LOOK_S)
        error = self._manager.background_thread_status.fatal_error
        reason = f"{type(error).__name__}: {error}" if error is not None else "its thread ended"
        self.fail(f"the engine stopped: {reason}")
        return reason

    def fail(self, reason: str) -> None:
        """Take no more requests, and end the open ones with an error."""
        self._ended = self._ended or reason
        for request_id, queue in list(self._open.items()):
            self._manager.cancel_request(request_id)
            queue.put_nowait(EngineError(reason))

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the thread, dropping what is open, and restore the model."""
        self._ended = self._ended or "the engine was stopped"
        try:
            self._manager.stop(block=True, timeout=timeout_s, hard_stop=True)
        finally:
            self.session.close()

    def ends(self, token: int) -> bool:
        """Whether this token ends a text."""
        return token in self._ends

    async def generate(self, asked: Asked) -> AsyncGenerator[list[int]]:
        """Yield new tokens as they come. A consumer that leaves early frees the request: use `aclosing`.

        Raises EngineError where the engine has ended, or ends.
        """
        if self._ended is not None:
            raise EngineError(self._ended)
        request_id = uuid.uuid4().hex
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._open[request_id] = queue
        finished = False
        try:
            self._add(request_id, asked)
            told = 0
            while not finished:
                output = await queue.get()
                if isinstance(output, EngineError):
                    raise output
                if output.error is not None:
                    finished = True
                    raise EngineError(f"the request failed: {output.error}")
                finished = output.is_finished()
                new, told = output.generated_tokens[told:], len(output.generated_tokens)
                if new:
                    yield new
        finally:
            del self._open[request_id]
            if not finished:
                self._manager.cancel_request(request_id)

    def _add(self, request_id: str, asked: Asked) -> None:
        self.session.note(request_id, asked.note)
        added = self._manager.add_request(
            list(asked.ids),
            request_id,
            max_new_tokens=asked.max_tokens,
            streaming=True,
            eos_token_id=-1 if asked.ignore_eos else None,
            **asked.sampling.as_kwargs(),
        )
        if added is None:
            raise EngineError(self._ended or "the engine takes no more requests")

    def _deliver(self, outputs: Sequence[Any]) -> None:
        """Called in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, outputs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.debug("%d outputs after the end", len(outputs))

    def _take(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            queue = self._open.get(output.request_id)
            if queue is not None:
                queue.put_nowait(output)


class _Router(OutputRouter):  # type: ignore[misc]
    """Gives every output to one function; transformers' own keeps the handlers of cancelled requests for ever."""

    def __init__(self, deliver: Any) -> None:
        super().__init__()
        self._deliver = deliver

    def deliver(self, output: Any) -> None:
        """One output."""
        self._deliver([output])

    def deliver_batch(self, outputs: list[Any]) -> None:
        """The outputs of a step."""
        self._deliver(outputs)


def _batch_tokens(options: ServerOptions, most_tokens: int) -> int:
    if options.max_num_batched_tokens is not None:
        return options.max_num_batched_tokens
    return (
        min(most_tokens, MOST_BATCHED_TOKENS) if options.serving.routing.isolates_prompts else BATCHED_TOKENS
    )


def _cache_pages(options: ServerOptions, most_tokens: int, num_running: int) -> int:
    """Pages of the KV cache: of a whole request at least, of all that run where none may lose its cache to another."""
    whole = -(-most_tokens // PAGE_TOKENS)
    asked = options.cache_tokens or min(num_running * most_tokens, MOST_CACHE_TOKENS)
    if options.serving.routing.isolates_prompts and asked < num_running * most_tokens:
        allowed = (
            f"at least {num_running * most_tokens}, so that with this isolation no request is computed anew: "
            f"max_num_seqs = {num_running} of max_model_len = {most_tokens}"
        )
        raise ConfigError("cache_tokens", asked, allowed)
    if asked < most_tokens:
        raise ConfigError("cache_tokens", asked, f"at least one whole request of {most_tokens} tokens")
    return max(-(-asked // PAGE_TOKENS), num_running * whole if asked >= num_running * most_tokens else whole)


def _ends(model: nn.Module) -> frozenset[int]:
    """The tokens that end a text, as the model's generation configuration says."""
    ends: Any = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        return frozenset()
    return frozenset(token for token in (ends if isinstance(ends, list) else [ends]) if token >= 0)
