"""Random batches for the routing tests: small, uneven, with every feature of a context."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evenmoe.routing import Policy, RoutingContext, make_policy, option_names


@dataclass(frozen=True)
class Case:
    """One call of `keep`."""

    scores: Tensor
    chosen: Tensor
    ctx: RoutingContext

    @property
    def shape(self) -> tuple[int, int]:
        return self.scores.shape[0], self.scores.shape[1]

    @property
    def real(self) -> Tensor:
        return torch.ones(self.shape[0], dtype=torch.bool) if self.ctx.real_T is None else self.ctx.real_T


def top_k_mask(scores: Tensor, top_k: int) -> Tensor:
    """The model's choice, ties by expert index."""
    ids = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, ids, True)


def make_case(
    seed: int,
    num_tokens: int | None = None,
    num_experts: int | None = None,
    top_k: int | None = None,
    num_devices: int | None = None,
    padding: bool = False,
    ties: bool = False,
    uneven_k: bool = False,
    maps: bool = False,
    copies: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """A batch with skewed scores; what is None is drawn from the seed, as are requests and image tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    num_tokens = num_tokens or int(draw(5, 20))
    num_experts = num_experts or int(draw(4, 9))
    top_k = top_k or int(draw(1, min(4, num_experts - 1)))
    num_devices = num_devices or int(draw(1, 4))
    logits = torch.randn(num_tokens, num_experts, generator=generator)
    scores = (logits + torch.randn(num_experts, generator=generator)).softmax(-1)
    if ties:
        scores = (scores * 8).round() / 8
    chosen = top_k_mask(scores, top_k)
    if uneven_k:
        chosen &= torch.rand(chosen.shape, generator=generator) < 0.8
    real = None
    if padding:
        real = torch.rand(num_tokens, generator=generator) < 0.7
        real[: min(num_devices, num_tokens)] = True
    holds = None
    if copies:
        holds = torch.rand(num_devices, num_experts, generator=generator) < 0.4
        holds[draw(0, num_devices - 1, num_experts), torch.arange(num_experts)] = True
    ctx = RoutingContext(
        num_devices=num_devices,
        device_of_token_T=draw(0, num_devices - 1, num_tokens) if maps else None,
        device_of_expert_E=draw(0, num_devices - 1, num_experts) if maps and not copies else None,
        holds_DE=holds,
        real_T=real,
        request_of_token_T=draw(-1, 2, num_tokens) * 7,
        image_T=torch.rand(num_tokens, generator=generator) < 0.5,
        seed=seed,
    )
    return Case(scores.to(dtype), chosen, ctx)


def only(case: Case, wanted: Tensor) -> Case:
    """The batch of the wanted tokens alone (mask, or indices: then in that order), each on its device."""
    ctx = case.ctx

    def part(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[wanted]

    return Case(
        case.scores[wanted],
        case.chosen[wanted],
        replace(
            ctx,
            device_of_token_T=part(ctx.device_of_token_T),
            real_T=part(ctx.real_T),
            request_of_token_T=part(ctx.request_of_token_T),
            image_T=part(ctx.image_T),
        ),
    )


def example_policy(name: str) -> Policy:
    """The policy of that name, with 0.5 for every setting that has no default."""
    return make_policy(name, **dict.fromkeys(option_names(name)[1], 0.5))
