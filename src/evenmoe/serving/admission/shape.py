"""Shape: how many layers and experts a served model has."""

from __future__ import annotations

from dataclasses import dataclass

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads


@dataclass(frozen=True, kw_only=True)
class Shape:
    """L MoE layers of E experts, the most of any, of which a token is given K."""

    num_layers: int
    num_experts: int
    top_k: int

    @staticmethod
    def of(loads: ExpertLoads) -> Shape:
        """The shape of what a model's layers counted."""
        return Shape(num_layers=len(loads.layers), num_experts=loads.num_experts, top_k=loads.top_k)

    @property
    def num_entries(self) -> int:
        """L * E, the numbers of a load vector."""
        return self.num_layers * self.num_experts

    def check(self, field: str, value: object, other: Shape) -> None:
        """Raise ConfigError, which names the field and its value, unless the model that is served has this shape."""
        if self != other:
            raise ConfigError(
                field, value, f"one made for the model that is served: it has {other}, not {self}"
            )

    def __str__(self) -> str:
        return f"{self.num_layers} MoE layers of {self.num_experts} experts, top-{self.top_k}"
