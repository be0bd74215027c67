"""Workload: a queue of made-up prompts on a few topics, and a token prior that knows them. For benchmarks and tests.

Shape letters: L layers, E experts, X = L * E, R token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evenmoe.loads import ExpertLoads, LoadCounts
from evenmoe.scheduling.predictors import TokenCounts, TokenPrior
from evenmoe.serving.admission.shape import Shape
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot

NUM_TOPICS = 5
IDS_OF_TOPIC = 400
SEEN = 8
"""Recorded tokens of each id."""
BURST = 32
"""Requests on one topic in a row, on average."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A request to come."""

    ids: list[int]
    new_tokens: int


def topical_prior(shape: Shape, rng: np.random.Generator) -> TokenPrior:
    """A prior for a vocabulary in which each topic has ids of its own, and favours experts of its own in each layer."""
    num_ids = NUM_TOPICS * IDS_OF_TOPIC
    topic_GLE = np.exp(rng.standard_normal((NUM_TOPICS, shape.num_layers, shape.num_experts)))
    count_RLE = np.zeros((num_ids, shape.num_layers, shape.num_experts), dtype=np.int64)
    for topic in range(NUM_TOPICS):
        ids = slice(topic * IDS_OF_TOPIC, (topic + 1) * IDS_OF_TOPIC)
        for _ in range(SEEN):
            taste = np.log(topic_GLE[topic]) + rng.gumbel(size=count_RLE[ids].shape)
            best = np.argpartition(-taste, shape.top_k - 1, axis=-1)[..., : shape.top_k]
            np.put_along_axis(count_RLE[ids], best, np.take_along_axis(count_RLE[ids], best, -1) + 1, axis=-1)
    flat = count_RLE.reshape(-1)
    cells = flat.nonzero()[0]
    counts = TokenCounts(
        num_layers=shape.num_layers,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        ids_R=np.arange(num_ids),
        seen_R=np.full(num_ids, SEEN),
        cell_N=cells,
        count_N=flat[cells],
    )
    return TokenPrior(counts=counts, model="made up")


def write_prior(shape: Shape, folder: Path, seed: int = 0) -> str:
    """The path of a topical prior's file."""
    return str(topical_prior(shape, np.random.default_rng(seed)).save(folder / "prior.npz"))


def prompts(rng: np.random.Generator, *, mean_tokens: int, mean_new_tokens: int) -> Iterator[Prompt]:
    """Prompts without end, in bursts on one topic; their lengths are log-normal."""
    topic = 0
    while True:
        if rng.random() < 1 / BURST:
            topic = int(rng.integers(NUM_TOPICS))
        length, answer = np.exp(0.5 * rng.standard_normal(2) - 0.125) * (mean_tokens, mean_new_tokens)
        ids = topic * IDS_OF_TOPIC + rng.integers(IDS_OF_TOPIC, size=max(1, round(length)))
        yield Prompt(ids=ids.tolist(), new_tokens=max(1, round(answer)))


def even_snapshot(shape: Shape, num_tokens: int) -> LoadsSnapshot:
    """What a worker would have counted of so many tokens that use all experts alike, to the nearest whole pair."""
    share = num_tokens * shape.top_k / shape.num_experts
    edges = np.round(np.arange(shape.num_experts + 1) * share).astype(np.int64)
    before_LE = np.tile(np.diff(edges), (shape.num_layers, 1))
    loads = ExpertLoads(
        layers=tuple(map(str, range(shape.num_layers))),
        num_experts_L=np.full(shape.num_layers, shape.num_experts),
        top_k=shape.top_k,
        total=LoadCounts.undropped(before_LE, shape.top_k),
    )
    total_L1 = before_LE.sum(-1, keepdims=True).astype(np.float64)
    return LoadsSnapshot(
        loads=loads,
        before_LD=total_L1,
        after_LD=total_L1,
        num_steps=0,
        num_tokens=num_tokens,
        num_requests=0,
    )
