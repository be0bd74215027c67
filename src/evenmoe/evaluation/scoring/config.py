"""The configuration of one evaluation: one model under one policy. Frozen, checked, saved with the result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from evenmoe.evaluation.specs import PolicySpec
from evenmoe.routing import Policy


class EvalConfig(BaseModel):
    """Everything that the scores depend on, beside the model's weights, the data and the library versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """A folder, a Hub name, or "bundled:text", "bundled:vlm"."""
    suite: str | None = None
    """The suite that `tasks` came from; None where tasks were named."""
    tasks: tuple[str, ...]
    policy: PolicySpec = PolicySpec(name="baseline")
    gamma: Annotated[float, Field(gt=0)] | None = None
    """None where the policy has no capacity."""
    scope: Literal["local", "global"] = "local"
    level: Literal["expert", "device"] = "expert"
    isolation: Literal["batch", "request", "strict"] = "batch"
    num_devices: Annotated[int, Field(ge=1)] = 8
    placement: tuple[tuple[int | tuple[int, ...], ...], ...] | None = None
    """The device, or devices, of each expert, [L][E]; None: contiguous shares."""
    phases: Literal["both", "prefill", "decode"] = "both"
    min_tokens: Annotated[int, Field(ge=1)] | None = None
    pad_token_id: int | None = None
    """The id that a harness pads with where it gives no attention mask; None: told from the harness."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Fixed: what shares a batch changes what is dropped."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """None: the suite's own number for each task."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """The first items of each task only; None: all."""
    include_path: str | None = None
    """A folder of the user's own task files."""
    apply_chat_template: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["nf4"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @field_serializer("gamma")
    def _infinity_as_text(self, gamma: float | None) -> float | str | None:
        return "inf" if gamma is not None and math.isinf(gamma) else gamma

    @property
    def key(self) -> str:
        """A name of the policy for folders, such as "token_drop-random-gamma1.5"."""
        options = "".join(
            f"-{Path(str(value)).stem if name == 'labels' else value}"
            for name, value in self.policy.options.items()
        )
        gamma = "" if self.gamma is None else f"-gamma{self.gamma:g}"
        return f"{self.policy.name}{options}{gamma}"

    @property
    def label(self) -> str:
        """A name of the policy for people, such as "Token Drop (random), γ 1.5"."""
        return ", ".join(filter(None, (self.policy.family, self.policy.setting(self.gamma))))

    def build_policy(self) -> Policy:
        """The routing policy. Raises ConfigError for a setting that the policy does not take."""
        common = {"scope": self.scope, "level": self.level, "isolation": self.isolation}
        return self.policy.build(self.gamma, common)
