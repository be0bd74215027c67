"""SimulatedWorkload: arrivals, lengths and loads put together. Shape letters: N requests, X = L*E entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_int
from evenmoe.simulation.request import Request
from evenmoe.simulation.workloads.arrivals import ArrivalBlock, Arrivals
from evenmoe.simulation.workloads.lengths import RequestLengths
from evenmoe.simulation.workloads.load_sources import LoadSource

Ints = NDArray[np.int64]

_BLOCK_ENTRIES = 1 << 16
"""Entries of the load vectors drawn at a time: as many requests as stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class SimulatedWorkload:
    """Requests made one after another; see Workload.

    arrivals: when they come, on which topic.
    loads: their load vectors, by topic.
    lengths: their tokens. A distribution goes before the trace's lengths, those before the prompts' own.
    num_requests: how many, at most; None: as many as arrive.

    Arrivals, prompt lengths, output lengths and loads draw from generators of their own, so that of two workloads with
    the same seed, which differ in one of them, the others are the same. The first requests do not depend on
    `num_requests`. Raises ConfigError, before any request is made, where the parts do not go together.
    """

    arrivals: Arrivals
    loads: LoadSource
    lengths: RequestLengths = field(default_factory=RequestLengths)
    num_requests: int | None = None

    def __post_init__(self) -> None:
        self.arrivals.check(self.loads.topics)
        if self.num_requests is not None:
            check_int("num_requests", self.num_requests, 1)
        if self.lengths.prompt is None and not (self.arrivals.has_lengths or self.loads.has_lengths):
            raise ConfigError(
                "lengths.prompt", None, "given: neither arrivals nor loads say how long prompts are"
            )
        if self.lengths.output is None and not self.arrivals.has_lengths:
            raise ConfigError("lengths.output", None, "given: the arrivals do not say how long answers are")

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics."""
        return self.loads.topics

    @property
    def num_layers(self) -> int:
        """L."""
        return self.loads.num_layers

    @property
    def num_experts(self) -> int:
        """E of each layer."""
        return self.loads.num_experts

    @property
    def top_k(self) -> float:
        """K: the sum of a load vector over the experts of one layer."""
        return self.loads.top_k

    def requests(self, seed: int) -> Iterator[Request]:
        """The requests in order of arrival. The same seed gives the same bytes.

        Raises ConfigError for a negative seed.
        """
        check_int("seed", seed, 0)
        return self._requests(seed)

    def _requests(self, seed: int) -> Iterator[Request]:
        arrivals_rng, *others = np.random.default_rng(seed).spawn(4)
        number = 0
        for block in self.arrivals.blocks(arrivals_rng, self.topics):
            for request in self._of_block(block, number, *others):
                yield request
                number += 1
                if number == self.num_requests:
                    return

    def _of_block(
        self,
        block: ArrivalBlock,
        number: int,
        prompts_rng: np.random.Generator,
        outputs_rng: np.random.Generator,
        loads_rng: np.random.Generator,
    ) -> Iterator[Request]:
        prompt_tokens, output_tokens = block.prompt_tokens, block.output_tokens
        if self.lengths.prompt is not None:
            prompt_tokens = self.lengths.prompt.draw(len(block.at_s), prompts_rng)
        if self.lengths.output is not None:
            output_tokens = self.lengths.output.draw(len(block.at_s), outputs_rng)
        assert output_tokens is not None
        step = max(_BLOCK_ENTRIES // (self.num_layers * self.num_experts), 16)
        for start in range(0, len(block.at_s), step):
            part = slice(start, start + step)
            drawn = self.loads.draw(
                block.topic_N[part], None if prompt_tokens is None else prompt_tokens[part], loads_rng
            )
            is_exact = drawn.predicted_NX is drawn.load_NX
            loads = list(drawn.load_NX)
            yield from map(
                Request,
                range(number + start, number + start + len(loads)),
                block.at_s[part].tolist(),
                drawn.prompt_tokens.tolist(),
                output_tokens[part].tolist(),
                block.topic_N[part].tolist(),
                loads,
                loads if is_exact else list(drawn.predicted_NX),
            )
