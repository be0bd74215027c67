"""Splitting: which requests of a batch this rank runs.

Shape letters: B requests, X entries of a load vector, D ranks.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from numpy.typing import ArrayLike

from evenmoe.errors import ShapeError
from evenmoe.parallel.group import Group
from evenmoe.scheduling import AssignMethod, assign


def split_batch(
    group: Group,
    loads_BX: ArrayLike,
    tokens_B: ArrayLike | None = None,
    *,
    method: AssignMethod = "balanced",
    seed: int = 0,
) -> list[int]:
    """The requests of a batch that this rank runs, by their place in the batch, ascending.

    loads_BX, tokens_B, method: as for `evenmoe.scheduling.assign`, the same on every rank.
    seed: what "random" draws from.

    Every rank works the whole split out by itself; together they have each request once. A rank may have fewer
    requests than another, or none: it must run a row of padding then, because every rank runs every layer's exchange.
    Collective: two numbers per rank are compared, so that ranks that were given different batches stop instead of
    losing requests. Raises ShapeError where they were, and what `assign` raises.
    """
    device_B = assign(
        loads_BX, tokens_B, num_devices=group.world_size, method=method, rng=np.random.default_rng(seed)
    )
    digest = torch.tensor([len(device_B), crc32(device_B.tobytes())], device=group.device)
    digest_D2 = group.all_gather(digest)
    if (digest_D2 != digest_D2[0]).any():
        raise ShapeError(
            f"the ranks split different batches: they have {digest_D2[:, 0].tolist()} requests, or other loads"
        )
    return np.flatnonzero(device_B == group.rank).tolist()
