"""Heads that training throws away: they ask hidden states what they should already know.

Answers alone teach some of it slowly: reading digits, finding the object that a name means, comparing two places.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from evenmoe.evaluation.scenes import COLOURS, NOUNS
from tools.vlm_model.batches import IGNORED, Batch

_IMAGE_SIZES = (1 + len(NOUNS), len(COLOURS), 10, 3, 3)
_MENTION_SIZES = (3, 3, len(NOUNS), len(COLOURS))
_PAIR_SIZES = (3, 3, 2, 2)


class ImageHead(nn.Module):
    """From an image token: noun (or none), colour, digit, row and column of its cell."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, sum(_IMAGE_SIZES))

    def forward(self, image_BNH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean of the five losses, in nats."""
        return _mean_loss(
            self.linear(image_BNH).flatten(0, 1), batch.image_labels_BN5.flatten(0, 1), _IMAGE_SIZES
        )


class MentionHead(nn.Module):
    """From the last word of an object's name: the object's row, column, noun and colour."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.linear = nn.Linear(hidden_size, sum(_MENTION_SIZES))

    def forward(self, hidden_BSH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean of the four losses, in nats."""
        hidden_MH = hidden_BSH[batch.mentions_M2[:, 0], batch.mentions_M2[:, 1]]
        return _mean_loss(self.linear(self.norm(hidden_MH)), batch.mention_labels_M4, _MENTION_SIZES)


class PairHead(nn.Module):
    """From the last word of a second object's name: how it lies to the first, and whether they look alike.

    Its row and column: less, the same or more; its noun and colour: other or the same.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.linear = nn.Linear(hidden_size, sum(_PAIR_SIZES))

    def forward(self, hidden_BSH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean of the four losses, in nats."""
        first_L4, second_L4 = (batch.mention_labels_M4[batch.pairs_L2[:, i]] for i in (0, 1))
        places_L2 = (second_L4[:, :2] - first_L4[:, :2]).sign() + 1
        alike_L2 = (second_L4[:, 2:] == first_L4[:, 2:]).long()
        spots = batch.mentions_M2[batch.pairs_L2[:, 1]]
        hidden_LH = hidden_BSH[spots[:, 0], spots[:, 1]]
        labels_L4 = torch.cat([places_L2, alike_L2], dim=1)
        return _mean_loss(self.linear(self.norm(hidden_LH)), labels_L4, _PAIR_SIZES)


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    losses = []
    for part, label in zip(torch.split(logits, list(sizes), dim=-1), labels.unbind(-1), strict=True):
        if bool((label != IGNORED).any()):
            losses.append(cross_entropy(part, label, ignore_index=IGNORED))
    return torch.stack(losses).mean() if losses else logits.sum() * 0
