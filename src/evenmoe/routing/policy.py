"""Policy: the interface of every routing policy, and what all of them check. Shape letters: T tokens, E experts."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.routing.context import RoutingContext


class Policy(ABC):
    """Which of a layer's (token, expert) pairs run. Policies are frozen, keyword-only dataclasses."""

    name: ClassVar[str]

    @property
    def needs_true_scores(self) -> bool:
        """Whether the scores of experts outside the top-k matter too, so that the score function must be right."""
        return False

    @property
    def has_capacity(self) -> bool:
        """Whether the loads are limited by a capacity."""
        return False

    @property
    def needs_images(self) -> bool:
        """Whether it must be known which tokens are image tokens."""
        return False

    @property
    def needs_entropy(self) -> bool:
        """Whether the entropy of every token's features is asked for."""
        return False

    def options(self) -> dict[str, object]:
        """Return every setting by the name under which the constructor takes it."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def describe(self) -> dict[str, object]:
        """Return the policy's name and every setting as JSON can hold them (an infinite gamma as "inf")."""
        settings = {key: "inf" if value == math.inf else value for key, value in self.options().items()}
        return {"policy": self.name} | settings

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.options().items())
        return f"{type(self).__name__}({settings})"

    def keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        """Return [T, E] bool: the pairs that run.

        scores_TE: the router's scores, floating point, of any sign; chosen_TE: bool, the model's own top-k.
        Rows that `ctx.real_T` marks as padding are never kept, and whatever they hold changes nothing.
        Raises ShapeError for shapes that disagree; ConfigError for scores that are NaN or infinite, and for a
        setting that needs what `ctx` does not have.
        """
        num_tokens, num_experts = _check_tensors(scores_TE, chosen_TE)
        scores_TE = scores_TE.detach()  # a choice has no gradient
        ctx.check_shapes(num_tokens, num_experts)
        self.check_context(ctx)
        if ctx.real_T is None:
            return self._keep_real(scores_TE, chosen_TE, ctx)
        real = ctx.real_T.to(scores_TE.device).nonzero().view(-1)
        if real.shape[0] == num_tokens:
            return self._keep_real(scores_TE, chosen_TE, dataclasses.replace(ctx, real_T=None))
        kept_TE = torch.zeros_like(chosen_TE)
        kept = self._keep_real(
            scores_TE.index_select(0, real), chosen_TE.index_select(0, real), _real_part(ctx)
        )
        return kept_TE.index_copy_(0, real, kept)

    def check_context(self, ctx: RoutingContext) -> None:  # noqa: B027 (most policies need nothing)
        """Raise ConfigError if a setting needs what `ctx` does not have."""

    def _keep_real(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        if scores_TE.shape[0] == 0:
            return chosen_TE.clone()
        _check_finite(scores_TE)
        return self._keep(scores_TE, chosen_TE, ctx)

    @abstractmethod
    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        """`keep` for checked tensors of at least one token, all of them real."""


def require(ctx: RoutingContext, field: str, setting: str, value: str) -> None:
    """Raise ConfigError if the context lacks the field without which a setting cannot act."""
    if getattr(ctx, field) is None:
        raise ConfigError(setting, value, f"it needs RoutingContext.{field}, which is None")


def _check_tensors(scores_TE: Tensor, chosen_TE: Tensor) -> tuple[int, int]:
    if scores_TE.dim() != 2 or scores_TE.shape[1] == 0:
        raise ShapeError(f"scores_TE must be [tokens, experts], got shape {tuple(scores_TE.shape)}")
    if chosen_TE.shape != scores_TE.shape:
        raise ShapeError(
            f"chosen_TE has shape {tuple(chosen_TE.shape)}, scores_TE has shape {tuple(scores_TE.shape)}"
        )
    if not scores_TE.dtype.is_floating_point:
        raise ConfigError("scores_TE", scores_TE.dtype, "a floating-point tensor")
    if chosen_TE.dtype != torch.bool:
        raise ConfigError("chosen_TE", chosen_TE.dtype, "a bool tensor")
    return scores_TE.shape[0], scores_TE.shape[1]


def _check_finite(scores_TE: Tensor) -> None:
    # A finite sum proves every score finite; finite scores can overflow a sum, so only then look at each.
    if math.isfinite(float(scores_TE.sum())) or bool(scores_TE.isfinite().all()):
        return
    bad = scores_TE.isfinite().logical_not().nonzero()[0].tolist()
    raise ConfigError(
        "scores_TE",
        float(scores_TE[bad[0], bad[1]]),
        f"finite, but token {bad[0]} has it for expert {bad[1]}",
    )


def _real_part(ctx: RoutingContext) -> RoutingContext:
    real_T = ctx.real_T
    assert real_T is not None

    def only_real(value_T: Tensor | None) -> Tensor | None:
        return None if value_T is None else value_T[real_T.to(value_T.device)]

    return dataclasses.replace(
        ctx,
        real_T=None,
        device_of_token_T=only_real(ctx.device_of_token_T),
        request_of_token_T=only_real(ctx.request_of_token_T),
        image_T=only_real(ctx.image_T),
        entropy_T=only_real(ctx.entropy_T),
    )
