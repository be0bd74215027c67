"""predict_layer: the time of one MoE layer under expert parallelism, for any loads, placement and policy. numpy only.

Shape letters: D devices (also source devices), E experts; leading axes [...] are steps, layers, or whatever is asked at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.costs.machine import Machine
from evenmoe.costs.parts import Floats
from evenmoe.costs.shape import Dtype, LayerShape
from evenmoe.errors import ConfigError, ShapeError

LayerPhase = Literal["gate", "policy", "permute", "dispatch", "expert", "combine", "wait", "rest"]
LAYER_PHASES: Final[tuple[LayerPhase, ...]] = get_args(LayerPhase)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPrediction:
    """Predicted times in milliseconds. `rest` is the shared experts; `wait` is for slower devices.

    layer_ms: [...]; phases: each [..., D]. The phases of every device sum to layer_ms.
    """

    layer_ms: Floats
    phases: dict[LayerPhase, Floats]

    @property
    def device_expert_ms(self) -> Floats:
        """[..., D]: what each device computes in its experts."""
        return self.phases["expert"]

    @property
    def device_wait_ms(self) -> Floats:
        """[..., D]: how long each device waits for a slower one."""
        return self.phases["wait"]


def predict_layer(
    machine: Machine,
    shape: LayerShape,
    *,
    load_DE: ArrayLike,
    tokens_D: ArrayLike,
    placement_holds_DE: ArrayLike,
    policy: str = "baseline",
    dtype: Dtype = "float32",
    barriers: bool = False,
) -> LayerPrediction:
    """Return the time of one MoE layer, or of many at once, and where each device spends it.

    load_DE: [..., D, E] pairs that run, by source device and expert, after the policy; fractions are expected loads.
    tokens_D: [..., D] tokens of each source device. placement_holds_DE: bool [D, E], which devices hold a copy; the
    copies of an expert take even shares, and a pair stays on its device only as far as that device's copy serves it.

    A layer takes as long as the slowest source's gate, policy, shared experts and packing, the dispatch, the slowest
    device's experts, the combine, and the slowest source's unpacking. An exchange takes as long as the rank that sends
    or receives most; pairs that stay cost no link time. One device alone exchanges nothing. barriers: the ranks meet at
    a barrier before each exchange, as they do where waiting is timed; it counts as "wait".
    Raises ShapeError for arrays that disagree, ConfigError for loads that are no loads, an expert without a device, and
    what the machine has no cost for.
    """
    load, tokens, holds = _checked(shape, load_DE, tokens_D, placement_holds_DE)
    load_E = load.sum(-2) / holds.sum(0)
    sent_D = load.sum(-1)
    pair_bytes = shape.pair_bytes(dtype)

    phases: dict[LayerPhase, Floats] = {
        "gate": machine.gate_ms(shape, dtype, tokens),
        "policy": machine.policy_ms(policy, tokens * shape.top_k),
        "rest": _shared_ms(machine, shape, dtype, tokens),
        "expert": _expert_ms(machine, shape, dtype, load_E, holds),
    }
    pack_D = machine.pack.time_ms(sent_D * pair_bytes)
    unpack_D = machine.unpack.time_ms(sent_D * pair_bytes)
    phases["permute"] = pack_D + unpack_D
    link_ms = _link_ms(machine, pairs_exchanged(load, holds), pair_bytes)
    even_D = np.zeros_like(pack_D)
    phases["dispatch"] = even_D + link_ms + (machine.dispatch_exchanges_ms if holds.shape[0] > 1 else 0.0)
    phases["combine"] = even_D + link_ms

    before_D = phases["gate"] + phases["policy"] + phases["rest"] + pack_D
    stages = (before_D, phases["dispatch"], phases["expert"], phases["combine"], unpack_D)
    met_ms = 2 * machine.barrier_ms if barriers and holds.shape[0] > 1 else 0.0
    layer_ms = sum((stage.max(-1) for stage in stages), start=np.full(load.shape[:-2], met_ms))
    phases["wait"] = sum((stage.max(-1, keepdims=True) - stage for stage in stages), start=even_D + met_ms)
    return LayerPrediction(layer_ms=layer_ms, phases={phase: phases[phase] for phase in LAYER_PHASES})


def _expert_ms(
    machine: Machine,
    shape: LayerShape,
    dtype: Dtype,
    load_E: Floats,
    holds: NDArray[np.float64],
) -> Floats:
    """[..., D]: the sum over the experts that a device touches, and one call if it has anything to do."""
    time_E = machine.expert_ms(shape.hidden, shape.intermediate, dtype, load_E)
    called_D = np.minimum(load_E @ holds.T, 1.0)
    return np.asarray(time_E @ holds.T + machine.expert_call_ms * called_D)


def _shared_ms(machine: Machine, shape: LayerShape, dtype: Dtype, tokens: Floats) -> Floats:
    if shape.shared_intermediate == 0:
        return np.zeros_like(tokens)
    return machine.expert_ms(shape.hidden, shape.shared_intermediate, dtype, tokens)


def _link_ms(machine: Machine, pairs_D: Floats, pair_bytes: int) -> Floats:
    """[..., 1]: one exchange of rows, by the rank that sends or receives most."""
    most = pairs_D.max(-1, keepdims=True)
    if pairs_D.shape[-1] == 1:
        return np.zeros_like(most)
    if machine.link is None:
        raise ConfigError("devices", pairs_D.shape[-1], f"1: {machine.name} was calibrated without a link")
    return machine.link.time_ms(most * pair_bytes)


def pairs_exchanged(load_DE: Floats, holds_DE: ArrayLike) -> Floats:
    """Return [..., D]: the pairs that each device sends to others or receives from them, whichever is more.

    load_DE [..., D, E] by source device and expert; holds_DE [D, E]. Copies take even shares, own copies included.
    """
    holds = np.asarray(holds_DE, dtype=np.float64)
    share = load_DE / holds.sum(0)
    stays_D = (share * holds).sum(-1)
    received_D = share.sum(-2) @ holds.T
    return np.asarray(np.maximum(np.maximum(load_DE.sum(-1), received_D) - stays_D, 0.0))


def _checked(
    shape: LayerShape, load_DE: ArrayLike, tokens_D: ArrayLike, holds_DE: ArrayLike
) -> tuple[Floats, Floats, NDArray[np.float64]]:
    load = np.asarray(load_DE, dtype=np.float64)
    tokens = np.asarray(tokens_D, dtype=np.float64)
    holds = np.asarray(holds_DE)
    if holds.ndim != 2 or holds.shape[1] != shape.num_experts or holds.dtype != np.bool_:
        raise ShapeError(
            f"placement_holds_DE must be bool [D, {shape.num_experts}] for {shape.name}, got "
            f"{holds.dtype} {list(holds.shape)}"
        )
    if load.ndim < 2 or load.shape[-2:] != holds.shape:
        raise ShapeError(
            f"load_DE has shape {list(load.shape)}; the placement needs [..., {holds.shape[0]}, {holds.shape[1]}]"
        )
    if tokens.shape != load.shape[:-1]:
        raise ShapeError(f"tokens_D has shape {list(tokens.shape)}; load_DE needs {list(load.shape[:-1])}")
    for field, values in (("load_DE", load), ("tokens_D", tokens)):
        if not np.isfinite(values).all() or (values < 0).any():
            raise ConfigError(field, float(values.flat[_first_bad(values)]), "finite numbers of at least 0")
    if not holds.any(0).all():
        raise ConfigError("placement_holds_DE", f"expert {int(holds.any(0).argmin())}", "held by a device")
    return load, tokens, holds.astype(np.float64)


def _first_bad(values: Floats) -> int:
    return int((~(values >= 0) | ~np.isfinite(values)).argmax())
