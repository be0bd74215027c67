"""ModelJob: everything that the timing of a whole model is made of. Shape letters: B rows, S positions, D devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from evenmoe.bench.job import BASELINE, Setting
from evenmoe.bench.model_random import RandomModel
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.models.loading import load
from evenmoe.placement import Placement

ModelMode = Literal["emulated", "ranks"]
MODEL_MODES: tuple[ModelMode, ...] = get_args(ModelMode)
Part = Literal["prefill", "decode"]


def stated_dtype(path: str) -> str:
    """Return the dtype that a checkpoint's configuration states, "float32" where it states none."""
    config = AutoConfig.from_pretrained(path).get_text_config()
    return str(config.dtype or torch.float32).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model as it was trained: it routes by itself. `path` as `evenmoe.load` takes it."""

    path: str
    name: str
    dtype: str = "float32"
    implementation: str = "eager"

    routes_itself = True

    def build(self) -> nn.Module:
        """Load the model, in eval mode. Raises ConfigError where it has no choice of the experts' implementation."""
        model: Any = load(self.path, dtype=self.dtype)
        try:
            model.set_experts_implementation(self.implementation)
        except (AttributeError, ValueError) as error:
            raise ConfigError(
                "experts", self.implementation, f"one that the model takes ({error})"
            ) from error
        whole: nn.Module = model
        return whole

    def describe(self) -> dict[str, Any]:
        """Return what the model is, as data."""
        return {
            "model": self.name,
            "routing": "the model's own, on text",
            "dtype": self.dtype,
            "experts_implementation": self.implementation,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelJob:
    """One model's timing.

    ids_BS: all rows of all devices, row by row the prompt and then the tokens that the decode steps are fed, whatever
        the model would say, so that every policy decodes the same. Each device has as many rows.
    num_prompt: tokens of the prompt; what is left of a row is decoded one by one.
    placement: for the model's layers, or one layer for all; None: contiguous shares.
    settings: the baseline first. min_tokens: as `evenmoe.attach` takes it.
    repeats: counted passes of every setting, after one that is not counted; the settings take turns.
    Raises ConfigError and ShapeError for what does not fit together.
    """

    source: RandomModel | Checkpoint
    ids_BS: Tensor
    num_prompt: int
    num_devices: int
    settings: tuple[Setting, ...]
    placement: Placement | None = None
    min_tokens: int | None = None
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.settings or self.settings[0].policy.name != BASELINE:
            raise ConfigError("settings", [s.label for s in self.settings], "the baseline first")
        if self.ids_BS.dim() != 2 or self.ids_BS.shape[0] == 0 or self.ids_BS.shape[0] % self.num_devices:
            raise ShapeError(
                f"ids of shape {tuple(self.ids_BS.shape)} are no equal number of rows for {self.num_devices} devices"
            )
        if not 1 <= self.num_prompt <= self.ids_BS.shape[1]:
            raise ConfigError(
                "prompt_tokens", self.num_prompt, f"from 1 to the {self.ids_BS.shape[1]} of a row"
            )
        if self.repeats < 1:
            raise ConfigError("repeats", self.repeats, "a number of at least 1")
        if self.placement is not None and self.placement.num_devices != self.num_devices:
            raise ConfigError(
                "devices", self.num_devices, f"the {self.placement.num_devices} of the placement"
            )

    @property
    def rows_per_device(self) -> int:
        """Rows that each device has."""
        return self.ids_BS.shape[0] // self.num_devices

    @property
    def num_calls(self) -> int:
        """Forwards of one pass: the prefill and the decode steps."""
        return 1 + self.ids_BS.shape[1] - self.num_prompt

    @property
    def parts(self) -> dict[Part, range]:
        """The forwards of each part that there is."""
        decode = range(1, self.num_calls)
        parts: dict[Part, range] = {"prefill": range(1)}
        return parts | {"decode": decode} if decode else parts

    def rows_of(self, device: int) -> slice:
        """Return which rows are on a device."""
        return slice(device * self.rows_per_device, (device + 1) * self.rows_per_device)

    def tokens_of(self, device: int, call: int) -> slice:
        """Return which tokens of a forward over all rows are on a device."""
        per_row = self.num_prompt if call == 0 else 1
        rows = self.rows_of(device)
        return slice(rows.start * per_row, rows.stop * per_row)

    @property
    def num_tokens_C(self) -> list[int]:
        """How many tokens all devices have in each forward."""
        rows = self.ids_BS.shape[0]
        return [rows * self.num_prompt] + [rows] * (self.num_calls - 1)

    def describe(self) -> dict[str, Any]:
        """Return the resolved settings as data, for results."""
        placed = "contiguous" if self.placement is None else self.placement.method or "given"
        return self.source.describe() | {
            "devices": self.num_devices,
            "rows_per_device": self.rows_per_device,
            "prompt_tokens": self.num_prompt,
            "new_tokens": self.num_calls - 1,
            "placement": placed,
            "min_tokens": self.min_tokens,
            "repeats": self.repeats,
            "seed": self.seed,
        }


def random_ids(num_rows: int, num_tokens: int, vocabulary: int, seed: int) -> Tensor:
    """Return [B, S] token ids drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (num_rows, num_tokens), generator=generator)
