"""break_even: from which number of tokens on a policy pays on a machine, for loads as skewed as given ones.

Dropping shortens the slowest device's work, and costs the policy's own time. With few tokens per expert an expert's
time is that of touching its weights, which dropping some of its tokens does not save: there the policy does not pay.
Shape letters: T tokens, D devices, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.costs.machine import Machine
from evenmoe.costs.parts import Floats
from evenmoe.costs.predict import predict_layer
from evenmoe.costs.shape import Dtype, LayerShape
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads.capacity import capacity

TOKENS = tuple(2**power for power in range(3, 18))
Limit = Callable[[Floats, NDArray[np.int64]], Floats]
"""What a policy leaves of loads [..., D, E] where the source devices have tokens [D]."""


@dataclass(frozen=True, kw_only=True)
class BreakEvenRow:
    """One number of tokens over all devices. experts_touched: of all devices together, without and with the policy."""

    tokens: int
    baseline_ms: float
    policy_ms: float
    experts_touched_before: float
    experts_touched: float

    @property
    def speedup(self) -> float:
        """Above 1 where the policy pays."""
        return self.baseline_ms / self.policy_ms


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """What was predicted at each number of tokens, ascending."""

    policy: str
    rows: tuple[BreakEvenRow, ...]

    @property
    def tokens(self) -> int | None:
        """The least number from which on the policy pays, at it and at every larger one asked; None: at none."""
        found = None
        for row in reversed(self.rows):
            if row.speedup <= 1:
                break
            found = row.tokens
        return found


def break_even(
    machine: Machine,
    shape: LayerShape,
    *,
    policy: str,
    limit: Limit,
    share_E: ArrayLike,
    placement_holds_DE: ArrayLike,
    dtype: Dtype = "float32",
    tokens: Sequence[int] = TOKENS,
    draws: int = 64,
    seed: int = 0,
) -> BreakEven:
    """Predict the layer without and with a policy at each number of tokens, and say from where on it pays.

    share_E: each expert's share of all pairs; tokens lie evenly on the source devices, all with these shares. Loads are
    drawn, each token having expert e with probability K * share_e, and times are means over `draws`; 0 takes the
    expected loads instead. limit: what the policy leaves, as `token_drop_limit` and `expert_drop_limit` say it;
    `policy` names the cost of deciding it, at every number of tokens asked (attach lets small calls pass: min_tokens).
    Raises ShapeError for shares of another number of experts, ConfigError for shares that no top-k routing has.
    """
    share, counts = _shares(shape, share_E), sorted(set(tokens))
    num_devices = np.asarray(placement_holds_DE).shape[0]
    rng = np.random.default_rng(seed)
    rows = []
    for count in counts:
        tokens_D = np.asarray([part.size for part in np.array_split(np.arange(count), num_devices)])
        before = _loads(share, tokens_D, shape.top_k, draws, rng)
        after = limit(before, tokens_D)
        common = {"placement_holds_DE": placement_holds_DE, "dtype": dtype}
        tokens_SD = np.broadcast_to(tokens_D, before.shape[:-1])
        plain = predict_layer(machine, shape, load_DE=before, tokens_D=tokens_SD, **common)  # type: ignore[arg-type]
        limited = predict_layer(
            machine,
            shape,
            load_DE=after,
            tokens_D=tokens_SD,
            policy=policy,
            **common,  # type: ignore[arg-type]
        )
        rows.append(
            BreakEvenRow(
                tokens=count,
                baseline_ms=float(plain.layer_ms.mean()),
                policy_ms=float(limited.layer_ms.mean()),
                experts_touched_before=_touched(before),
                experts_touched=_touched(after),
            )
        )
    return BreakEven(policy=policy, rows=tuple(rows))


def token_drop_limit(shape: LayerShape, gamma: float) -> Limit:
    """Return what Token Drop leaves: no expert more than its capacity from any source device (scope "local")."""

    def limit(load_DE: Floats, tokens_D: NDArray[np.int64]) -> Floats:
        most_D = [capacity(gamma, int(count), shape.top_k, shape.num_experts) for count in tokens_D]
        return np.minimum(load_DE, np.asarray(most_D, dtype=np.float64)[:, None])

    return limit


def expert_drop_limit(shape: LayerShape, fraction: float = 0.1) -> Limit:
    """Return what Expert Drop leaves: nothing of the least-loaded experts of the batch, a share `fraction` of all."""
    num_skipped = max(1, round(fraction * shape.num_experts))
    if not 0 < fraction < 1 or num_skipped >= shape.num_experts:
        raise ConfigError("fraction", fraction, "a number above 0 and below 1 that leaves an expert")

    def limit(load_DE: Floats, tokens_D: NDArray[np.int64]) -> Floats:
        order_E = np.argsort(load_DE.sum(-2), axis=-1, kind="stable")  # ties: the lower index
        skipped_E = np.zeros(order_E.shape, dtype=bool)
        np.put_along_axis(skipped_E, order_E[..., :num_skipped], True, axis=-1)
        return np.asarray(np.where(skipped_E[..., None, :], 0.0, load_DE))

    return limit


def _shares(shape: LayerShape, share_E: ArrayLike) -> Floats:
    share = np.asarray(share_E, dtype=np.float64)
    if share.shape != (shape.num_experts,):
        raise ShapeError(f"share_E has shape {share.shape}; {shape.name} needs ({shape.num_experts},)")
    if not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise ConfigError("share_E", share.tolist(), "finite numbers of at least 0, not all 0")
    share = share / share.sum()
    if share.max() > (1 + 1e-9) / shape.top_k:
        raise ConfigError(
            "share_E", float(share.max()), f"at most 1 / {shape.top_k}: a token has an expert once"
        )
    return np.asarray(share)


def _loads(
    share_E: Floats, tokens_D: NDArray[np.int64], top_k: int, draws: int, rng: np.random.Generator
) -> Floats:
    """[S, D, E] drawn loads, or the expected ones [1, D, E]."""
    chance_E = np.minimum(share_E * top_k, 1.0)
    if draws == 0:
        return np.asarray(tokens_D[:, None] * chance_E, dtype=np.float64)[None]
    drawn = rng.binomial(tokens_D[:, None], chance_E, size=(draws, tokens_D.size, share_E.size))
    return np.asarray(drawn, dtype=np.float64)


def _touched(load_SDE: Floats) -> float:
    return float(np.minimum(load_SDE.sum(-2), 1.0).sum(-1).mean())
