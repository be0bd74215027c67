"""The configuration of a sweep: frozen, checked, and saved with every result."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from evenmoe.evaluation.batches import Mix
from evenmoe.evaluation.specs import PolicySpec

Gamma = Annotated[float, Field(gt=0)]


class SweepConfig(BaseModel):
    """Everything a sweep's numbers depend on, beside the model's weights and the library versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    policies: tuple[PolicySpec, ...]
    gammas: tuple[Gamma, ...] = (2.0, 1.5, 1.0, 0.5)
    scope: Literal["local", "global"] = "local"
    level: Literal["expert", "device"] = "expert"
    isolation: Literal["batch", "request", "strict"] = "batch"
    num_devices: Annotated[int, Field(ge=1)] = 8
    placement: tuple[tuple[int | tuple[int, ...], ...], ...] | None = None
    """The device, or devices, of each expert, [L][E]; None: contiguous shares."""
    texts: tuple[str, ...]
    num_windows: Annotated[int, Field(ge=1)] | None = None
    """None: as `plan_batches` says; a result's configuration has the number."""
    window_tokens: Annotated[int, Field(ge=2)] = 256
    batch_size: Annotated[int, Field(ge=1)] | None = None
    mix: Mix = "mixed"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["nf4"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("gammas")
    @classmethod
    def _gammas_are_distinct(cls, gammas: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(gammas)) != len(gammas) or any(math.isnan(gamma) for gamma in gammas):
            raise ValueError(f"each gamma once, got {list(gammas)}")
        return gammas

    @field_serializer("gammas")
    def _infinity_as_text(self, gammas: tuple[float, ...]) -> list[float | str]:
        return ["inf" if math.isinf(gamma) else gamma for gamma in gammas]

    @property
    def common_options(self) -> dict[str, str]:
        """The options every policy gets that has them and does not set its own."""
        return {"scope": self.scope, "level": self.level, "isolation": self.isolation}
