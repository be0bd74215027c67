"""Benchmark: what a policy costs beyond the model's own top-k. Shape letters: T tokens, E experts, K top-k."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from evenmoe.errors import ConfigError
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.expanded_drop import ExpandedDrop
from evenmoe.routing.expert_drop import ExpertDrop
from evenmoe.routing.fill import Fill
from evenmoe.routing.macs import Macs
from evenmoe.routing.policy import Policy
from evenmoe.routing.threshold_drop import ThresholdDrop
from evenmoe.routing.token_drop import TokenDrop

PLAIN_TOP_K = "top-k"


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One measured line. `ratio_to_top_k` compares the best times of this run."""

    name: str
    tokens: int
    best_ms: float
    median_ms: float
    ratio_to_top_k: float


def bench_routing(
    tokens: Sequence[int] = (4096, 32768),
    experts: int = 64,
    top_k: int = 8,
    devices: int = 8,
    gamma: float = 1.0,
    repeats: int = 50,
    seed: int = 0,
) -> list[BenchRow]:
    """Time each policy on random skewed scores, scope "local", in milliseconds of wall time.

    A policy's time is that of building the mask of the model's choice from its top-k indices, and of `keep`. The
    first row of each token count is the plain top-k of the same scores. Rounds of all rows are interleaved, so that
    a disturbance of the machine falls on all of them; the best round is the one to compare. Uses the threads that
    torch is set to. Raises ConfigError for counts below 1 or a top_k above the experts.
    """
    for field, value in (("experts", experts), ("top_k", top_k), ("devices", devices), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(field, value, "an integer of at least 1")
    if top_k > experts:
        raise ConfigError("top_k", top_k, f"at most the {experts} experts")
    rows: list[BenchRow] = []
    for num_tokens in tokens:
        scores_TE = skewed_scores(num_tokens, experts, seed)
        jobs = _jobs(scores_TE, top_k, _context(num_tokens, experts, devices, seed), gamma)
        rows += _rows(num_tokens, _interleaved_ms(jobs, repeats))
    return rows


def skewed_scores(num_tokens: int, num_experts: int, seed: int) -> Tensor:
    """Return [T, E] router probabilities: softmax of normal logits plus one normal popularity per expert, both of
    standard deviation 1. At E 64, K 8 the busiest expert has 6 to 8 times the mean load, as OLMoE has on code.
    """
    generator = torch.Generator().manual_seed(seed)
    popularity_E = torch.randn(num_experts, generator=generator)
    return (torch.randn(num_tokens, num_experts, generator=generator) + popularity_E).softmax(-1)


def _context(num_tokens: int, num_experts: int, num_devices: int, seed: int) -> RoutingContext:
    """Return a batch's context; for MACS, three of four tokens are image tokens, with drawn entropies and labels."""
    generator = torch.Generator().manual_seed(seed)
    return RoutingContext(
        num_devices=num_devices,
        image_T=torch.rand(num_tokens, generator=generator) < 0.75,
        entropy_T=torch.rand(num_tokens, generator=generator),
        modality_E=torch.randint(-1, 2, (num_experts,), generator=generator),
        seed=seed,
    )


def _policies(gamma: float) -> dict[str, Policy]:
    return {
        "token_drop (score)": TokenDrop(gamma=gamma),
        "token_drop (first)": TokenDrop(gamma=gamma, keep="first"),
        "token_drop (random)": TokenDrop(gamma=gamma, keep="random"),
        "expanded_drop": ExpandedDrop(gamma=gamma),
        "fill": Fill(gamma=gamma),
        "expert_drop": ExpertDrop(),
        "threshold_drop": ThresholdDrop(threshold=0.05),
        "macs": Macs(gamma=gamma),
    }


def _jobs(
    scores_TE: Tensor, top_k: int, ctx: RoutingContext, gamma: float
) -> dict[str, Callable[[], object]]:
    ids_TK = scores_TE.topk(top_k, dim=-1)[1]

    def kept_by(policy: Policy) -> Callable[[], object]:
        def run() -> Tensor:
            chosen_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(1, ids_TK, True)
            return policy.keep(scores_TE, chosen_TE, ctx)

        return run

    jobs: dict[str, Callable[[], object]] = {PLAIN_TOP_K: lambda: scores_TE.topk(top_k, dim=-1)}
    return jobs | {name: kept_by(policy) for name, policy in _policies(gamma).items()}


def _interleaved_ms(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times_ms: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():  # warm up
        job()
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times_ms[name].append((time.perf_counter() - start) * 1000)
    return times_ms


def _rows(num_tokens: int, times_ms: dict[str, list[float]]) -> list[BenchRow]:
    reference = min(times_ms[PLAIN_TOP_K])
    return [
        BenchRow(
            name=name,
            tokens=num_tokens,
            best_ms=min(times),
            median_ms=median(times),
            ratio_to_top_k=min(times) / reference,
        )
        for name, times in times_ms.items()
    ]
