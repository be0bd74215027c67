"""The configuration of a sweep: frozen, checked, and saved with every result."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_serializer, field_validator

from evenmoe.evaluation.batches import Mix
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.scheduling import AssignMethod

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
    assign: AssignMethod = "arrival"
    """Which virtual device each window of a batch joins; "arrival": contiguous shares of the batch."""
    loads_from: Annotated[Literal["predicted", "true"] | None, Field(validate_default=True)] = None
    """The loads that "balanced" goes by: of the token prior, or of a pass without a limit."""
    prior: Annotated[str | None, Field(validate_default=True)] = None
    """The token prior's file."""
    prior_sha256: str | None = None
    """None: not read yet; a result's configuration has it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["nf4"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("gammas")
    @classmethod
    def _gammas_are_distinct(cls, gammas: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(gammas)) != len(gammas) or any(math.isnan(gamma) for gamma in gammas):
            raise ValueError(f"each gamma once, got {list(gammas)}")
        return gammas

    @field_validator("assign")
    @classmethod
    def _assignment_has_devices(cls, assign: AssignMethod, info: ValidationInfo) -> AssignMethod:
        if assign != "arrival" and info.data.get("num_devices") == 1:
            raise ValueError("arrival: there is only one device")
        return assign

    @field_validator("loads_from")
    @classmethod
    def _loads_are_for_balanced(cls, loads_from: str | None, info: ValidationInfo) -> str | None:
        if (info.data.get("assign") == "balanced") != (loads_from is not None):
            raise ValueError("predicted or true with assign balanced, left out otherwise")
        return loads_from

    @field_validator("prior")
    @classmethod
    def _prior_is_for_predicted(cls, prior: str | None, info: ValidationInfo) -> str | None:
        if (info.data.get("loads_from") == "predicted") != (prior is not None):
            raise ValueError("a token prior's file with loads_from predicted, left out otherwise")
        return prior

    @field_serializer("gammas")
    def _infinity_as_text(self, gammas: tuple[float, ...]) -> list[float | str]:
        return ["inf" if math.isinf(gamma) else gamma for gamma in gammas]

    @property
    def common_options(self) -> dict[str, str]:
        """The options every policy gets that has them and does not set its own."""
        return {"scope": self.scope, "level": self.level, "isolation": self.isolation}
