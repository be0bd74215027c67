"""Which tokens each training step sees: a pure function of the step, so that a resumed run sees the same ones."""

import random

import numpy as np
import torch

from tools.errors import RecipeError
from tools.text_model.recipe import Recipe
from tools.text_model.tokenizer import TokenIds


def sequence_at(stream: TokenIds, number: int, length: int, seed: str) -> TokenIds:
    """The `number`-th sequence drawn from a stream, `length` + 1 ids: each pass visits every place once.

    Each pass has its own order and its own offset. Raises `RecipeError` when the stream is too short.
    """
    num_places = (len(stream) - 1) // length - 1
    if num_places < 1:
        raise RecipeError(
            f"a stream of {len(stream)} tokens is too short; at least {2 * length + 1} are needed"
        )
    epoch, place = divmod(number, num_places)
    rng = random.Random(f"{seed}/{epoch}")
    offset = rng.randrange(length)
    order = np.random.default_rng(rng.getrandbits(64)).permutation(num_places)
    start = offset + int(order[place]) * length
    return stream[start : start + length + 1]


def batch_at(streams: dict[str, TokenIds], step: int, recipe: Recipe) -> torch.Tensor:
    """The ids of one step, [sequences, sequence_length + 1]; every sequence is of one domain."""
    rows = [
        sequence_at(streams[domain], step * count + i, recipe.sequence_length, f"{recipe.seed}/{domain}")
        for domain, count in recipe.sequences_per_step.items()
        for i in range(count)
    ]
    return torch.from_numpy(np.stack(rows))
