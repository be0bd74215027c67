"""Answering: from a checked body to the engine's tokens, and from those to text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.serving.admission.client_loads import client_load
from evenmoe.serving.transformers.configuring import Note
from evenmoe.serving.transformers.server.bodies import ChatBody, CompletionBody
from evenmoe.serving.transformers.server.engine import Asked, Engine
from evenmoe.serving.transformers.server.prompts import Prompts
from evenmoe.serving.transformers.server.refusals import wrong
from evenmoe.serving.transformers.server.replies import Choice, Finish, Usage
from evenmoe.serving.transformers.server.sampling import Sampling
from evenmoe.serving.transformers.server.texts import Detokenizer, StopStrings

_Ids = TypeVar("_Ids")
COMPLETION_TOKENS = 16
"""What a completion gets that does not say how many; a chat gets the rest of the context."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A checked request: one Asked per prompt, and where its texts stop."""

    asked: Sequence[Asked]
    stops: tuple[str, ...]

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(one.ids) for one in self.asked)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """More of one choice; `num_tokens` of it so far."""

    choice: Choice
    num_tokens: int


class Answering:
    """Checks what is asked of one model, and runs it."""

    def __init__(
        self, engine: Engine, prompts: Prompts, tokenizer: Any, *, seed: int, takes_loads: bool
    ) -> None:
        self._engine, self._prompts, self._tokenizer = engine, prompts, tokenizer
        self._seeds = np.random.default_rng(seed)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._takes_loads = takes_loads

    @property
    def most_tokens(self) -> int:
        """Of a prompt and its answer together."""
        return self._prompts.most_tokens

    async def question(self, body: CompletionBody | ChatBody) -> Question:
        """What a body asks. Raises RefusalError, which names the field that is wrong."""
        sampling, note, stops = self._sampling(body), self._note(body), body.stops
        field, most = "max_tokens", body.max_tokens
        if isinstance(body, ChatBody):
            prompts = [await self._aside(self._prompts.of_chat, body.messages)]
            if body.max_completion_tokens is not None:
                field, most = "max_completion_tokens", body.max_completion_tokens
        else:
            prompts = await self._aside(self._prompts.of_completion, body.prompt)
        return Question(
            asked=[
                Asked(
                    ids=ids,
                    max_tokens=self._max_tokens(field, most, len(ids), isinstance(body, ChatBody)),
                    sampling=replace(sampling, seed=(sampling.seed + index) % 2**63),
                    ignore_eos=body.ignore_eos,
                    note=note,
                )
                for index, ids in enumerate(prompts)
            ],
            stops=stops,
        )

    async def whole(self, question: Question) -> tuple[list[Choice], Usage]:
        """The answer when it is complete. Raises EngineError."""
        texts = [""] * len(question.asked)
        ends: list[Finish | None] = [None] * len(question.asked)
        tokens = [0] * len(question.asked)
        async with aclosing(self.pieces(question)) as pieces:
            async for piece in pieces:
                index = piece.choice.index
                texts[index] += piece.choice.text
                ends[index], tokens[index] = piece.choice.finish, piece.num_tokens
        choices = [
            Choice(index=index, text=text, finish=end)
            for index, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        return choices, Usage(prompt_tokens=question.prompt_tokens, completion_tokens=sum(tokens))

    async def pieces(self, question: Question) -> AsyncGenerator[Piece]:
        """Yield the answer as it comes, all prompts at once. Raises EngineError; leaving early frees every request."""
        if len(question.asked) == 1:
            async with aclosing(self._choice(0, question.asked[0], question.stops)) as one:
                async for piece in one:
                    yield piece
            return
        queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

        async def run(index: int, asked: Asked) -> None:
            try:
                async with aclosing(self._choice(index, asked, question.stops)) as one:
                    async for piece in one:
                        queue.put_nowait(piece)
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(run(index, asked)) for index, asked in enumerate(question.asked)]
        try:
            num_open = len(tasks)
            while num_open:
                told = await queue.get()
                if isinstance(told, Exception):
                    raise told
                if told is None:
                    num_open -= 1
                else:
                    yield told
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _choice(self, index: int, asked: Asked, stops: tuple[str, ...]) -> AsyncGenerator[Piece]:
        """Yield the pieces of one prompt's answer; the last one has a finish."""
        detokenizer, stop = Detokenizer(self._tokenizer), StopStrings(stops)
        num_tokens, ended = 0, False
        async with aclosing(self._engine.generate(asked)) as generated:
            async for ids in generated:
                num_tokens += len(ids)
                ended = not asked.ignore_eos and self._engine.ends(ids[-1])
                text = stop.add(detokenizer.add(ids))
                if stop.found:
                    yield Piece(choice=Choice(index=index, text=text, finish="stop"), num_tokens=num_tokens)
                    return
                if text:
                    yield Piece(choice=Choice(index=index, text=text), num_tokens=num_tokens)
        text = stop.add(detokenizer.flush())
        text += stop.flush()
        finish: Finish = "stop" if ended or stop.found else "length"
        yield Piece(choice=Choice(index=index, text=text, finish=finish), num_tokens=num_tokens)

    async def _aside(self, tokenize: Callable[[Any], _Ids], prompt: Any) -> _Ids:
        """Tokenize in a thread, so that a long text holds nobody up; in one, as tokenizers are not made for more."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, tokenize, prompt)

    def _max_tokens(self, field: str, asked: int | None, prompt_tokens: int, chat: bool) -> int:
        room = self._prompts.most_tokens - prompt_tokens
        if asked is None:
            return room if chat else min(COMPLETION_TOKENS, room)
        if asked > room:
            raise wrong(
                field,
                asked,
                f"at most {room} after a prompt of {prompt_tokens} tokens: the model's context length is "
                f"{self._prompts.most_tokens}",
            )
        return asked

    def _sampling(self, body: CompletionBody | ChatBody) -> Sampling:
        top_k = body.top_k or 0
        return Sampling(
            temperature=1.0 if body.temperature is None else float(body.temperature),
            top_p=1.0 if body.top_p is None else float(body.top_p),
            top_k=max(top_k, 0),
            seed=int(self._seeds.integers(2**62)) if body.seed is None else body.seed % 2**63,
        )

    def _note(self, body: CompletionBody | ChatBody) -> Note:
        try:
            load_X = client_load(body.vllm_xargs, self._engine.session.shape.num_entries)
        except ConfigError as error:
            raise wrong(f"vllm_xargs.{error.field}", error.value, error.allowed) from error
        unknown = set(body.vllm_xargs or ()) - {"expert_load"}
        if unknown:
            raise wrong(f"vllm_xargs.{min(unknown)[:40]}", "given", "left out; there is expert_load")
        return Note(priority=body.priority, load_X=load_X if self._takes_loads else None)
