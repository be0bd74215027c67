"""StragglerExecution: every layer takes as long as its slowest device.

Shape letters: B requests, S steps (forwards), L layers whose loads are known, D devices, E experts, X = L*E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenmoe.costs import LayerShape
from evenmoe.errors import ConfigError, ShapeError, check_choice
from evenmoe.loads.metrics import device_load, ratio_of_sums
from evenmoe.placement import Placement
from evenmoe.scheduling import ASSIGN_METHODS, assign
from evenmoe.simulation.dropping import Dropper, Dropping
from evenmoe.simulation.execution import Ints, StepCost
from evenmoe.simulation.layer_costs import FormulaCosts, LayerCosts
from evenmoe.simulation.request import Floats, Request

_MOST_KEPT = 1 << 14
"""Even times that are kept: a few numbers of tokens come again and again."""


class StragglerExecution:
    """Expert-parallel devices, each with requests of its own, that wait for the busiest in every MoE layer.

    shape: sizes of a layer; `shape.num_layers` MoE layers in all. num_loads: L, layers that a load vector knows; each
        stands for shape.num_layers / L of them.
    num_devices: D. placement: who holds which expert, for one layer or L; None: contiguous.
    costs: what a layer takes: MachineCosts, or FormulaCosts, the default.
    dropping: a routing policy inside; None: every pair runs.
    assign_method: which device's share of a step each request joins, see `evenmoe.scheduling.assign`; by predicted
        load, anew in every step.
    step_s, token_s: what a forward takes beside its MoE layers (attention, the head), fixed and per token of the device
        that has most; 0 by default, so that times are those of the MoE layers alone.

    Loads are expected pairs, which have less unevenness than drawn ones where a step has few tokens. A static batch is
    one forward over all prompts, then one for each further token of those that still want one.
    The scheduler sees predicted pairs by device, layer after layer. Raises ConfigError, ShapeError.
    """

    def __init__(
        self,
        shape: LayerShape,
        *,
        num_loads: int,
        num_devices: int,
        placement: Placement | None = None,
        costs: LayerCosts | None = None,
        dropping: Dropping | None = None,
        assign_method: str = "arrival",
        step_s: float = 0.0,
        token_s: float = 0.0,
    ) -> None:
        check_choice("assign_method", assign_method, ASSIGN_METHODS)
        for name, value in (("num_loads", num_loads), ("num_devices", num_devices)):
            if value < 1:
                raise ConfigError(name, value, "at least 1")
        for name, seconds in (("step_s", step_s), ("token_s", token_s)):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigError(name, seconds, "a finite number of seconds of at least 0")
        self.shape, self.num_devices, self.dropping = shape, num_devices, dropping
        self.costs: LayerCosts = FormulaCosts() if costs is None else costs
        self._num_loads, self._step_s, self._token_s = num_loads, step_s, token_s
        self._holds_LDE = self._holds(placement)
        self._groups = _alike(self._holds_LDE)
        eye_EE = np.eye(shape.num_experts)
        self._share_LED = np.stack([device_load(eye_EE, holds, num_devices) for holds in self._holds_LDE])
        self._even_s: dict[tuple[str, int, float], float] = {}
        self._dropper = None if dropping is None else Dropper(dropping, self._holds_LDE, shape.top_k)
        self._assign_method = assign_method
        self._policy = "baseline" if dropping is None else dropping.policy

    @property
    def num_view_layers(self) -> int:
        """L: the scheduler sees devices, layer by layer."""
        return self._num_loads

    def view(self, request: Request) -> Floats:
        """[L * D]: the predicted pairs of all tokens, by device."""
        load_L1E = (request.predicted_X * request.tokens).reshape(self._num_loads, 1, -1)
        return np.asarray(load_L1E @ self._share_LED).reshape(-1)

    def batch(self, requests: Sequence[Request]) -> tuple[StepCost, Floats, Floats]:
        """A static batch: its cost, and by request [B] the seconds to the first token, and to the last."""
        more_B = np.array([request.output_tokens - 1 for request in requests])
        # decode goes on unchanged until the next request is done
        until_S = np.unique(np.append(more_B, 0))
        count_S = np.append(1, np.diff(until_S))
        tokens_SB = (more_B >= until_S[:, None]).astype(np.int64)
        tokens_SB[0] = [request.prompt_tokens for request in requests]
        cost, seconds_S = self._steps(requests, tokens_SB, count_S)
        passed_S = np.cumsum(seconds_S * count_S)
        return cost, np.full(len(requests), passed_S[0]), passed_S[np.searchsorted(until_S, more_B)]

    def step(self, requests: Sequence[Request], tokens_B: Ints) -> StepCost:
        """One iteration of continuous batching."""
        return self._steps(requests, tokens_B[None], np.ones(1, dtype=np.int64))[0]

    def _steps(self, requests: Sequence[Request], tokens_SB: Ints, count_S: Ints) -> tuple[StepCost, Floats]:
        """The cost of all steps, step s being run `count_S[s]` times, and the seconds of each [S]."""
        load_SLDE, tokens_SD = self._dealt(requests, tokens_SB)
        pairs_SL = load_SLDE.sum((2, 3))
        run_SLDE, kept_SL, acts_S = self._dropped(load_SLDE, pairs_SL, tokens_SD)
        seconds_S, busy_S, even_S = self._times(run_SLDE, tokens_SD, acts_S)
        device_SLD = (load_SLDE.sum(2, keepdims=True) @ self._share_LED)[:, :, 0]
        peak_S, mean_S = device_SLD.max(-1).sum(-1), device_SLD.mean(-1).sum(-1)
        total_s, even_s = float(count_S @ seconds_S), float(count_S @ even_S)
        scale = self.shape.num_layers / self._num_loads
        pairs = float(count_S @ pairs_SL.sum(-1)) * scale
        cost = StepCost(
            seconds=total_s,
            busy_share=float(count_S @ busy_S) / total_s,
            imbalance=total_s / even_s,
            straggler_factor=ratio_of_sums(count_S * peak_S, count_S * mean_S),
            pairs=pairs,
            dropped_pairs=max(pairs - float(count_S @ kept_SL.sum(-1)) * scale, 0.0),
        )
        return cost, seconds_S

    def _dealt(self, requests: Sequence[Request], tokens_SB: Ints) -> tuple[Floats, Floats]:
        """Pairs by source device and expert [S, L, D, E], and tokens by source device [S, D]."""
        device_B = self._devices(requests, tokens_SB[0])
        is_on_DB = (np.arange(self.num_devices)[:, None] == device_B).astype(np.float64)
        tokens_SDB = tokens_SB[:, None] * is_on_DB
        load_SDX = tokens_SDB @ np.array([request.load_X for request in requests])
        load_SDLE = load_SDX.reshape(*load_SDX.shape[:2], self._num_loads, -1)
        return load_SDLE.swapaxes(1, 2), tokens_SDB.sum(-1)

    def _dropped(
        self, load_SLDE: Floats, pairs_SL: Floats, tokens_SD: Floats
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Pairs that run, top-k pairs among them [S, L], and whether the policy acted [S]."""
        tokens = tokens_SD.astype(np.int64)
        acts_S = np.zeros(len(tokens), dtype=bool) if self._dropper is None else self._dropper.acts(tokens)
        if self._dropper is None or not acts_S.any():
            return load_SLDE, pairs_SL, acts_S
        kept = self._dropper.keep(load_SLDE[acts_S], tokens[acts_S])
        run_SLDE, kept_SL = load_SLDE.copy(), pairs_SL.copy()
        run_SLDE[acts_S], kept_SL[acts_S] = kept.run_SLDE, kept.kept_SL
        return run_SLDE, kept_SL, acts_S

    def _times(
        self, run_SLDE: Floats, tokens_SD: Floats, acts_S: NDArray[np.bool_]
    ) -> tuple[Floats, Floats, Floats]:
        """[S] seconds of each forward, those in which its devices compute, and those of an even load."""
        if acts_S.any() and not acts_S.all():  # a policy's decision is paid where it is taken
            times_3S = np.empty((3, len(acts_S)))
            for is_S in (acts_S, ~acts_S):
                times_3S[:, is_S] = self._times(run_SLDE[is_S], tokens_SD[is_S], acts_S[is_S])
            return times_3S[0], times_3S[1], times_3S[2]
        policy = self._policy if acts_S.any() else "baseline"
        seconds_S, busy_S = self._seconds(run_SLDE, tokens_SD, policy)
        pairs_S = run_SLDE.sum((1, 2, 3)) / self._num_loads
        tokens_S = tokens_SD.sum(-1)
        even_S = [
            self._even_seconds(round(pairs, 6), int(tokens), policy)
            for pairs, tokens in zip(pairs_S.tolist(), tokens_S.tolist(), strict=True)
        ]
        return seconds_S, busy_S, np.array(even_S)

    def _seconds(self, load_SLDE: Floats, tokens_SD: Floats, policy: str) -> tuple[Floats, Floats]:
        """[S] seconds of a forward, and the mean over devices of those in which they compute [S]."""
        seconds_S = busy_S = np.zeros(len(load_SLDE))
        for layers, holds_DE in self._groups:
            part_SLDE = load_SLDE if len(self._groups) == 1 else load_SLDE[:, layers]
            seconds_SL, busy_SLD = self.costs.layer_s(part_SLDE, tokens_SD, holds_DE, policy)
            seconds_S = seconds_S + seconds_SL.sum(-1)
            busy_S = busy_S + busy_SLD.mean(-1).sum(-1)
        scale = self.shape.num_layers / self._num_loads
        beside_S = self._step_s + self._token_s * tokens_SD.max(-1)
        return seconds_S * scale + beside_S, busy_S * scale + beside_S

    def _even_seconds(self, pairs: float, tokens: int, policy: str) -> float:
        """The seconds that as many pairs in each layer, and tokens, take when they are spread evenly."""
        key = policy, tokens, pairs
        if key not in self._even_s:
            if len(self._even_s) >= _MOST_KEPT:
                self._even_s.clear()
            even_DE = self.shape.contiguous_holds(self.num_devices)
            load_11DE = np.full((1, 1, *even_DE.shape), pairs / even_DE.size)
            tokens_1D = np.full((1, self.num_devices), tokens / self.num_devices)
            seconds_11, _ = self.costs.layer_s(load_11DE, tokens_1D, even_DE, policy)
            beside_s = self._step_s + self._token_s * tokens / self.num_devices
            self._even_s[key] = float(seconds_11[0, 0]) * self.shape.num_layers + beside_s
        return self._even_s[key]

    def _devices(self, requests: Sequence[Request], tokens_B: Ints) -> Ints:
        """[B]: the source device of each request; drawn ones from who is in the step, so that a run can be repeated."""
        is_random = self._assign_method == "random"
        rng = np.random.default_rng([request.number for request in requests]) if is_random else None
        predicted_BX = np.array([request.predicted_X for request in requests]) * tokens_B[:, None]
        return assign(
            predicted_BX, tokens_B, num_devices=self.num_devices, method=self._assign_method, rng=rng
        )

    def _holds(self, placement: Placement | None) -> NDArray[np.bool_]:
        """[L, D, E] bool, checked."""
        if placement is None:
            return np.stack([self.shape.contiguous_holds(self.num_devices)] * self._num_loads)
        if placement.num_devices != self.num_devices:
            raise ShapeError(f"the placement is for {placement.num_devices} devices, not {self.num_devices}")
        fitted = placement.for_layers([self.shape.num_experts] * self._num_loads)
        return np.stack([fitted.holds(layer) for layer in range(self._num_loads)])


def _alike(holds_LDE: NDArray[np.bool_]) -> list[tuple[list[int], NDArray[np.bool_]]]:
    """Layers that share a placement are priced together."""
    groups: dict[bytes, list[int]] = {}
    for layer, holds_DE in enumerate(holds_LDE):
        groups.setdefault(holds_DE.tobytes(), []).append(layer)
    return [(layers, holds_LDE[layers[0]]) for layers in groups.values()]
