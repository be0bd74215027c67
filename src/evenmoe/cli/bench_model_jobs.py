"""From the words of `evenmoe bench model` to a job: a model of random weights, or a trained one on text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from evenmoe.cli.bench_inputs import placement_for, shares_for
from evenmoe.cli.console import hide_loading_bars
from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from evenmoe.bench.block import Implementation
    from evenmoe.bench.job import Setting
    from evenmoe.bench.model_job import Checkpoint, ModelJob
    from evenmoe.bench.model_random import RandomModel
    from evenmoe.placement import Placement

DEVICES = 8
"""Of a trained model, where neither the devices nor a placement are given."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of any model."""

    devices: int | None
    rows: int
    prompt_tokens: int
    new_tokens: int
    placement: Path | None
    settings: tuple[Setting, ...]
    dtype: str
    experts: str
    min_tokens: int | None
    repeats: int
    seed: int

    @property
    def implementation(self) -> str:
        """The experts' implementation: auto is the one that is fastest as a rule."""
        from evenmoe.bench.block import fastest_implementation

        return fastest_implementation() if self.experts == "auto" else self.experts

    def job(
        self, source: RandomModel | Checkpoint, ids_BS: Tensor, num_devices: int, placed: Placement | None
    ) -> ModelJob:
        """Return the job of a model on its rows."""
        from evenmoe.bench.model_job import ModelJob

        return ModelJob(
            source=source,
            ids_BS=ids_BS,
            num_prompt=self.prompt_tokens,
            num_devices=num_devices,
            settings=self.settings,
            placement=placed,
            min_tokens=self.min_tokens,
            repeats=self.repeats,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is asked of a model of random weights alone."""

    layers: int | None
    loads: Path | None
    layer: str | None
    tag: str | None
    skew: float | None


def random_job(name: str, asked: Asked, drawn: Drawn) -> ModelJob:
    """Return the job of a model of random weights, named as in costs.SHAPES. Raises ConfigError for a misfit."""
    from evenmoe.bench.block import torch_dtype
    from evenmoe.bench.model_job import random_ids
    from evenmoe.bench.model_random import VOCAB, RandomModel
    from evenmoe.costs import SHAPES

    shape = SHAPES[name]
    placed = placement_for(shape, asked.placement, asked.devices, drawn.layer)
    source = RandomModel(
        shape=shape,
        shares=shares_for(shape, drawn.loads, drawn.layer, drawn.tag, drawn.skew, asked.seed),
        num_layers=drawn.layers or 2,
        dtype=torch_dtype(asked.dtype, shape),
        implementation=cast("Implementation", asked.implementation),
        seed=asked.seed,
    )
    num_rows = asked.rows * placed.num_devices
    ids_BS = random_ids(num_rows, asked.prompt_tokens + asked.new_tokens, VOCAB, asked.seed)
    return asked.job(source, ids_BS, placed.num_devices, placed)


def trained_job(name: str, asked: Asked, text: list[Path] | None) -> ModelJob:
    """Return the job of a trained model on text: "bundled:NAME", or a checkpoint. Raises ConfigError as they do."""
    import numpy as np
    import torch

    from evenmoe.bench.model_job import Checkpoint, stated_dtype
    from evenmoe.cli.running import BUNDLED_PREFIX, texts_for
    from evenmoe.evaluation.texts import cut_windows
    from evenmoe.models.bundled import bundled_path
    from evenmoe.models.loading import load_tokenizer
    from evenmoe.placement import read_placement

    hide_loading_bars()
    path = str(bundled_path(name.removeprefix(BUNDLED_PREFIX))) if name.startswith(BUNDLED_PREFIX) else name
    placed = read_placement(asked.placement) if asked.placement else None
    if placed is not None and asked.devices not in (None, placed.num_devices):
        raise ConfigError("devices", asked.devices, f"the {placed.num_devices} of the placement, or left out")
    num_devices = placed.num_devices if placed is not None else asked.devices or DEVICES
    windows = cut_windows(
        texts_for(text)[0],
        load_tokenizer(path),
        num_windows=asked.rows * num_devices,
        window_tokens=asked.prompt_tokens + asked.new_tokens,
    )
    dtype = stated_dtype(path) if asked.dtype == "auto" else asked.dtype
    source = Checkpoint(path=path, name=name, dtype=dtype, implementation=asked.implementation)
    ids_BS = torch.from_numpy(np.stack([window.ids_S for window in windows]))
    return asked.job(source, ids_BS, num_devices, placed)
