"""Dropping: what a routing policy leaves of a step, told from counts of pairs alone.

Shape letters: S steps, L layers, D devices (as sources of tokens, and as holders of experts), E experts, G groups of
tokens that compete with each other (the source devices, or one for all), B bins (experts, or devices).

Counts do not say which token chose which expert. What they do say:

- **Token Drop** is exact in its numbers: a bin keeps min(pairs, capacity). Where a bin holds several experts, or a
  group several sources, each loses the same share.
- **Expanded Drop** is exact in what every bin runs under local scope and expert level: a local expert may take any
  token of its device. Which of those are top-k pairs depends on scores; here top-k pairs always win, so its drop rate
  is a lower bound.
- **Fill** gives leftover local room to tokens that lost a pair; here every lost pair finds a place while there is
  room, so its work is an upper bound under local scope: a token may in truth have chosen the free expert already.
  Under global scope it is an estimate, as which source's pairs are lost depends on scores.

Counts may be fractions, expected pairs. An expected count under the capacity loses nothing, though a drawn one would
now and then: with few tokens the drop rate is too low.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, check_choice
from evenmoe.loads.capacity import ceil_share, check_gamma, exact_gamma
from evenmoe.loads.metrics import device_load
from evenmoe.simulation.execution import Ints
from evenmoe.simulation.request import Floats

DropPolicy = Literal["token_drop", "expanded_drop", "fill"]
DROP_POLICIES: Final[tuple[DropPolicy, ...]] = get_args(DropPolicy)
Scope = Literal["local", "global"]
Level = Literal["expert", "device"]

_MOST_KEPT = 1 << 12
"""Capacities that are kept: a few numbers of tokens come again and again."""


@dataclass(frozen=True, kw_only=True)
class Dropping:
    """A routing policy on counts.

    gamma, scope, level: as those of `evenmoe.routing`.
    min_tokens: the least tokens of a step, on all devices, for the policy to act; None: E / K for each capacity that is
        counted, which local scope does on every device, as `evenmoe.attach` has it.
    Raises ConfigError.
    """

    policy: DropPolicy
    gamma: float
    scope: Scope = "local"
    level: Level = "expert"
    min_tokens: int | None = None

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, DROP_POLICIES)
        check_choice("scope", self.scope, get_args(Scope))
        check_choice("level", self.level, get_args(Level))
        object.__setattr__(self, "gamma", check_gamma(self.gamma))
        if self.policy == "expanded_drop" and math.isinf(self.gamma):
            raise ConfigError(
                "gamma", self.gamma, "finite: without a limit every token takes every local expert"
            )
        if self.min_tokens is not None and self.min_tokens < 1:
            raise ConfigError("min_tokens", self.min_tokens, "at least 1, or None")


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What is left. run_SLDE: pairs that run, substitutes included. kept_SL: top-k pairs among them."""

    run_SLDE: Floats
    kept_SL: Floats


class Dropper:
    """A policy under a placement. holds_LDE: bool [L, D, E]. top_k: K of a token."""

    def __init__(self, dropping: Dropping, holds_LDE: NDArray[np.bool_], top_k: int) -> None:
        self.dropping, self._top_k = dropping, top_k
        self._holds_LDE = holds_LDE.astype(np.float64)
        _, num_devices, num_experts = holds_LDE.shape
        self._copies_LE = holds_LDE.sum(1)
        self._by_device = dropping.level == "device"
        self._copies_LB = holds_LDE.sum(2) if self._by_device else self._copies_LE
        # the share of each expert's pairs that falls to each device
        self._share_LED = np.stack(
            [device_load(np.eye(num_experts), holds, num_devices) for holds in holds_LDE]
        )
        self._limit_of: dict[int, Floats] = {}
        num_capacities = num_devices if dropping.scope == "local" else 1
        self._min_tokens = dropping.min_tokens or -(-num_experts // top_k) * num_capacities

    def acts(self, tokens_SD: Ints) -> NDArray[np.bool_]:
        """[S]: whether a step has tokens enough for the policy to act."""
        return np.asarray(tokens_SD.sum(-1) >= self._min_tokens)

    def keep(self, load_SLDE: Floats, tokens_SD: Ints) -> Kept:
        """What the policy leaves of `load_SLDE` top-k pairs by source and expert, of `tokens_SD` tokens, if it acts."""
        is_global = self.dropping.scope == "global"
        tokens_SG = tokens_SD.sum(-1, keepdims=True) if is_global else tokens_SD
        load_SLGE = load_SLDE.sum(2, keepdims=True) if is_global else load_SLDE
        limit_SLGB = self._limits(tokens_SG)
        load_SLGB = load_SLGE @ self._share_LED if self._by_device else load_SLGE
        kept_SLGB = np.minimum(load_SLGB, limit_SLGB)
        share_SLGB = np.divide(kept_SLGB, load_SLGB, out=np.zeros_like(kept_SLGB), where=load_SLGB > 0)
        if self._by_device:
            share_SLGB = share_SLGB @ self._share_LED.transpose(0, 2, 1)
        kept_SLDE = load_SLDE * share_SLGB
        kept_SL = kept_SLDE.sum((2, 3))
        if self.dropping.policy == "token_drop":
            return Kept(run_SLDE=kept_SLDE, kept_SL=kept_SL)
        extra_SLDE = self._extra(load_SLDE, tokens_SD, limit_SLGB - kept_SLGB)
        if self.dropping.policy == "fill":
            lost_SLD = (load_SLDE - kept_SLDE).sum(-1)
            extra_SLD = extra_SLDE.sum(-1)
            extra_SLDE *= _share(lost_SLD, extra_SLD)[..., None]
        return Kept(run_SLDE=kept_SLDE + extra_SLDE, kept_SL=kept_SL)

    def _extra(self, load_SLDE: Floats, tokens_SD: Ints, room_SLGB: Floats) -> Floats:
        """[S, L, D, E]: what tokens could take of the room on experts of their own device that they did not choose."""
        wish_SLDE = self._holds_LDE * np.maximum(tokens_SD[:, None, :, None] - load_SLDE, 0.0)
        if self._by_device:
            room_SLD = room_SLGB[:, :, 0] if room_SLGB.shape[2] == 1 else np.einsum("sldd->sld", room_SLGB)
            return np.asarray(wish_SLDE * _share(room_SLD, wish_SLDE.sum(-1))[..., None])
        wish_SLGE = wish_SLDE.sum(2, keepdims=True) if room_SLGB.shape[2] == 1 else wish_SLDE
        return np.asarray(wish_SLDE * _share(room_SLGB, wish_SLGE))

    def _limits(self, tokens_SG: Ints) -> Floats:
        """[S, L, G, B]: capacities, at least 1 and at most the tokens for each copy."""
        limit_SGLB = np.stack([self._limit(tokens) for tokens in tokens_SG.ravel().tolist()])
        return limit_SGLB.reshape(*tokens_SG.shape, *self._copies_LB.shape).swapaxes(1, 2)

    def _limit(self, tokens: int) -> Floats:
        """[L, B]: the capacities of a group of so many tokens."""
        if tokens not in self._limit_of:
            if len(self._limit_of) >= _MOST_KEPT:
                self._limit_of.clear()
            most_LB = tokens * self._copies_LB.astype(np.float64)
            if not math.isinf(self.dropping.gamma):
                exact, pairs = exact_gamma(self.dropping.gamma), tokens * self._top_k
                limits = [
                    [max(int(ceil_share(exact, pairs * copies, num_copies)), 1) for copies in copies_B]
                    for copies_B, num_copies in zip(
                        self._copies_LB.tolist(), self._copies_LE.sum(-1).tolist(), strict=True
                    )
                ]
                most_LB = np.minimum(most_LB, np.array(limits, dtype=np.float64))
            self._limit_of[tokens] = most_LB
        return self._limit_of[tokens]


def _share(available: Floats, wanted: Floats) -> Floats:
    """How much of what is wanted can be had: available / wanted, at most 1."""
    share = np.divide(available, wanted, out=np.ones_like(wanted), where=wanted > 0)
    return np.asarray(np.minimum(share, 1.0))
