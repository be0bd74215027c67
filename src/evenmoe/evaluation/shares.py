"""Which virtual device's share of its batch each window joins, by the loads that are known of it.

Shape letters: B windows of one batch, N windows of all batches, L layers, E experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.evaluation.config import SweepConfig
from evenmoe.evaluation.quality import Shares
from evenmoe.evaluation.texts import Window
from evenmoe.models.attach import attach
from evenmoe.models.prediction import true_loads
from evenmoe.models.sites import find_sites
from evenmoe.routing import Baseline
from evenmoe.scheduling import assign
from evenmoe.scheduling.predictors import read_token_prior

Floats: TypeAlias = NDArray[np.float64]


def assign_shares(
    config: SweepConfig, model: torch.nn.Module, batches: Sequence[Sequence[Window]]
) -> Shares | None:
    """The device of each window, batch by batch, as `config.assign` says; None for "arrival", as `attach` does it.

    Raises ConfigError for a prior that was learned on a model of another shape, and what `read_token_prior` raises.
    """
    if config.assign == "arrival":
        return None
    windows = [window for batch in batches for window in batch]
    load_NLE = _loads(config, model, windows, len(batches[0]))
    ends = np.cumsum([len(batch) for batch in batches])[:-1]
    rng = np.random.default_rng([config.seed, 1])  # another stream than the one that makes the batches
    return [
        assign(load_BX, num_devices=config.num_devices, method=config.assign, rng=rng).tolist()
        for load_BX in np.split(load_NLE.reshape(len(windows), -1), ends)
    ]


def _loads(
    config: SweepConfig, model: torch.nn.Module, windows: Sequence[Window], batch_size: int
) -> NDArray[np.generic]:
    """[N, L, E]: the pairs that each window asks for, or is expected to, while nothing is dropped."""
    prompts = [window.ids_S for window in windows]
    if config.prior is not None:
        return _predicted(model, prompts, config.prior)
    if config.loads_from is None:
        return np.zeros((len(windows), 1, 1))
    with attach(model, Baseline()) as attached:
        return true_loads(model, attached, prompts, batch_size=batch_size)


def _predicted(model: torch.nn.Module, prompts: Sequence[NDArray[np.int64]], path: str) -> Floats:
    prior = read_token_prior(path)
    sites = find_sites(model)
    shape = len(sites), max(site.num_experts for site in sites)
    if (prior.num_layers, prior.num_experts) != shape:
        found = f"{prior.num_layers} layers of {prior.num_experts} experts"
        raise ConfigError("prior", found, f"a prior of this model: {shape[0]} layers of {shape[1]}")
    return np.stack([prior.predict(ids_S) for ids_S in prompts])


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of a file. Raises ConfigError for a file that cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError("prior", str(path), "a file that can be read") from error
