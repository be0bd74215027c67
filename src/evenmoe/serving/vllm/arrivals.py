"""Arrivals: how many requests began in a step, told from lengths alone, and never more than there were.

Attention metadata has no names of requests. Nearly always what it has is enough: a row that continues no row of the
step before begins a request. But an engine may also pass a request over for some steps, or take the KV cache from it
(preemption), and let it run again later, from its beginning. Where a row may be such a one, it is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from evenmoe.serving.vllm.steps import Step


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds a step of the engine.

    num_blocks: blocks of the KV cache, None where that is not known; block_size: tokens of one.
    max_tokens, max_requests: of a step. max_length: tokens of a request.
    """

    max_tokens: int
    max_requests: int
    max_length: int
    block_size: int
    num_blocks: int | None = None

    def blocks(self, lengths: Iterable[int]) -> int:
        """Blocks that requests of these lengths take, with one more token each."""
        return sum(length // self.block_size + 1 for length in lengths)

    def has_room(self, num_blocks: int) -> bool:
        """Whether so many blocks surely are there."""
        return self.num_blocks is not None and num_blocks < self.num_blocks

    def has_room_for_one(self, num_blocks: int) -> bool:
        """Whether, beside so many blocks, there surely are those of any one more request."""
        return self.has_room(num_blocks + self.blocks([self.max_length]))


class Arrivals:
    """Follows the lengths of an engine's requests from step to step."""

    def __init__(self) -> None:
        self._running: Counter[int] = Counter()
        """Requests of the last step, by their length after it."""
        self._absent: Counter[int] = Counter()
        """Requests that left the batch and may return."""

    def of_step(self, step: Step, limits: Limits) -> int:
        """Return how many requests surely began in the step. Each step must be given, in order.

        That no request is counted twice rests on the scheduler of the engine: it leaves out a request that runs only
        for want of tokens or of blocks, and starts none in a step in which it takes blocks from another.
        """
        lengths = [context + length for context, length in zip(step.context_B, step.length_B, strict=True)]
        began = sum(not self._continues(context, limits) for context in step.context_B)
        gone = +self._running
        explained = min(began, self._absent.total())
        self._return(explained)
        had_tokens = step.num_tokens < limits.max_tokens
        taken = sum(limits.blocks(part) for part in (lengths, gone.elements(), self._absent.elements()))
        taken += limits.blocks([limits.max_tokens])  # what those that are gone may have asked for
        if had_tokens and len(lengths) < limits.max_requests and limits.has_room_for_one(taken):
            self._absent.clear()  # whoever waited would have run
        if not (had_tokens and (began or limits.has_room(taken))):
            self._absent += gone
        self._running = Counter(lengths)
        return began - explained

    def _continues(self, context: int, limits: Limits) -> bool:
        """Whether a row of that context goes on with a request that has run before."""
        for requests in (self._running, self._absent):
            if context and requests[context]:
                requests[context] -= 1
                return True
        is_shared_prefix = context % limits.block_size == 0  # requests share whole blocks, or nothing
        return not is_shared_prefix

    def _return(self, number: int) -> None:
        for length in list(self._absent.elements())[:number]:
            self._absent[length] -= 1
