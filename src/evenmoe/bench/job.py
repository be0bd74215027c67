"""LayerJob: everything that the timing of one layer is made of, so that each mode does the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from evenmoe.bench.block import Implementation, OneLayer, build_layer
from evenmoe.bench.draws import DrawnRouting, draw_routing
from evenmoe.bench.routed import RoutedLayer, route, tokens_of_devices
from evenmoe.bench.shares import Shares
from evenmoe.costs import Dtype, LayerShape
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.placement import Placement
from evenmoe.routing import Policy

Mode = Literal["emulated", "ranks", "predicted"]
MODES: tuple[Mode, ...] = get_args(Mode)
OnProgress = Callable[[str, int, int], None]
FEWEST_TOKENS, MOST_TOKENS = 512, 32768
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row: a policy as it is to run, what people call it, and its capacity factor where it has one."""

    label: str
    policy: Policy
    gamma: float | None = None

    @property
    def title(self) -> str:
        """The label, and how strong it is: "Token Drop, γ 1.5"."""
        return self.label if self.gamma is None else f"{self.label}, γ {self.gamma:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerJob:
    """One layer's timing: sizes, routing to draw, placement (of one layer), and the settings, the baseline first.

    dtype, implementation: of the experts. repeats: counted passes of every setting, after one that is not counted; the
    settings take turns, so that a disturbance falls on all. seed: of weights, inputs and routing.
    Raises ConfigError and ShapeError for what does not fit together.
    """

    shape: LayerShape
    shares: Shares
    num_tokens: int
    placement: Placement
    settings: tuple[Setting, ...]
    dtype: torch.dtype
    implementation: Implementation = "eager"
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.settings or self.settings[0].policy.name != BASELINE:
            raise ConfigError("settings", [s.label for s in self.settings], "the baseline first")
        if self.placement.num_layers != 1 or self.placement.num_experts(0) != self.shape.num_experts:
            raise ShapeError(
                f"the placement has {self.placement.num_layers} layers of {self.placement.num_experts(0)} experts; "
                f"{self.shape.name} is one layer of {self.shape.num_experts}"
            )
        if self.shares.share_E.shape[0] != self.shape.num_experts:
            raise ShapeError(
                f"shares of {self.shares.share_E.shape[0]} experts; {self.shape.name} has {self.shape.num_experts}"
            )
        if self.num_tokens < self.num_devices:
            raise ConfigError(
                "tokens", self.num_tokens, f"at least one for each of {self.num_devices} devices"
            )
        if self.repeats < 1:
            raise ConfigError("repeats", self.repeats, "a number of at least 1")

    @property
    def num_devices(self) -> int:
        """D, real or emulated."""
        return self.placement.num_devices

    @property
    def dtype_name(self) -> Dtype:
        """The dtype as a machine file calls it."""
        names: dict[torch.dtype, Dtype] = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
        return names.get(self.dtype, "float32")

    def draw(self) -> DrawnRouting:
        """Return the routing of all tokens; the same on every rank."""
        return draw_routing(self.shares.share_E, self.num_tokens, self.shape.top_k, self.seed)

    def routed(self, routing: DrawnRouting) -> list[RoutedLayer]:
        """Return what each setting makes of the routing."""
        return [route(setting.policy, routing, self.placement, self.seed) for setting in self.settings]

    def tokens_of(self, device: int) -> slice:
        """Return which tokens are on a device."""
        tokens_D = tokens_of_devices(self.num_tokens, self.num_devices)
        start = int(tokens_D[:device].sum())
        return slice(start, start + int(tokens_D[device]))

    def build(self) -> OneLayer:
        """Build the layer, its experts not yet filled."""
        return build_layer(self.shape, dtype=self.dtype, implementation=self.implementation, seed=self.seed)

    def describe(self) -> dict[str, Any]:
        """Return the resolved settings as data, for results."""
        return {
            "shape": self.shape.describe(),
            "shares": self.shares.source,
            "skew": self.shares.skew,
            "tokens": self.num_tokens,
            "devices": self.num_devices,
            "placement": self.placement.method or "given",
            "dtype": self.dtype_name,
            "experts_implementation": self.implementation,
            "repeats": self.repeats,
            "seed": self.seed,
        }
