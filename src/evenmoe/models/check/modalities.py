"""The modality policies on a model's images: image-first, text-first, uniform and MACS.

Shape letters: T tokens, E experts, D devices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evenmoe.models.attach import attach
from evenmoe.models.check.case import NUM_DEVICES, Case, Inputs, loads_per_device, logits_of, token_devices
from evenmoe.models.check.result import CheckFailure
from evenmoe.models.modality import label_experts
from evenmoe.models.session import LayerStep
from evenmoe.routing import Baseline, ExpertModality, Macs, Modality, TokenDrop

GAMMA = 0.5
"""Low enough that image and text tokens both lose experts."""


def check_modality_policies(case: Case, inputs: Inputs, plain: Tensor) -> str:
    """Check each modality policy on inputs with images; return what was seen, or raise CheckFailure."""
    labels = calibrated(case, inputs)
    for policy in (
        TokenDrop(gamma=math.inf, modality="image-first"),
        TokenDrop(gamma=math.inf, modality="text-first"),
        Macs(gamma=math.inf, labels=labels),
    ):
        logits, _ = case.attached_logits(policy, inputs)
        case.require_equal(logits, plain, f"{policy} with images")
    lost = {modality: _check_order(case, inputs, modality) for modality in ("image-first", "text-first")}
    if sum(lost.values()) == 0:
        raise CheckFailure("no bin lost a pair while both modalities wanted it, so nothing was shown")
    dropped = _check_macs(case, inputs, labels)
    return f"{lost['image-first']} and {lost['text-first']} contested bins, MACS dropped {dropped} pairs"


def calibrated(case: Case, inputs: Inputs) -> ExpertModality:
    """Return the labels of the model's experts on these inputs."""
    with attach(case.model, Baseline(), split="modality") as attached:
        logits_of(case.model, inputs)
        return label_experts(attached.loads)


def _check_order(case: Case, inputs: Inputs, modality: Modality) -> int:
    """Check that no pair of the protected modality is lost where one of the other is kept; return contested bins."""
    _, steps = case.attached_logits(TokenDrop(gamma=GAMMA, modality=modality), inputs)
    contested = 0
    for step in steps:
        image_T = _image_tokens(step)
        first_T = image_T if modality == "image-first" else ~image_T
        lost_TE = step.chosen_TE & ~step.kept_TE
        kept_of_first_DE = loads_per_device(step, step.kept_TE & first_T[:, None])
        lost_of_last_DE = loads_per_device(step, lost_TE & ~first_T[:, None])
        if bool(((kept_of_first_DE > 0) & (lost_of_last_DE > 0)).any()):
            raise CheckFailure(f"{step.name}: {modality} lost a pair of the other modality first")
        wanted_by_both_DE = torch.ones_like(kept_of_first_DE, dtype=torch.bool)
        for part_T in (first_T, ~first_T):
            wanted_by_both_DE &= loads_per_device(step, step.chosen_TE & part_T[:, None]) > 0
        contested += int((wanted_by_both_DE & (loads_per_device(step, lost_TE) > 0)).sum())
    return contested


def _check_macs(case: Case, inputs: Inputs, labels: ExpertModality) -> int:
    """Check that text pairs alone, which weigh 1 each, keep to the highest capacity there may be; return drops."""
    policy = Macs(gamma=GAMMA, labels=labels)
    _, steps = case.attached_logits(policy, inputs)
    dropped = 0
    for step in steps:
        if bool((step.kept_TE & ~step.chosen_TE).any()):
            raise CheckFailure(f"{step.name}: MACS kept a pair that the router had not chosen")
        real_T = step.tokens.real_T
        device_T = token_devices(step) if real_T is None else token_devices(step)[real_T]
        pairs_D = torch.zeros(NUM_DEVICES, dtype=torch.long).index_add_(
            0, device_T, step.chosen_TE.sum(1) if real_T is None else step.chosen_TE[real_T].sum(1)
        )
        most_D = (GAMMA * pairs_D / step.chosen_TE.shape[1]).ceil() * (1 + policy.rho / 2)
        text_DE = loads_per_device(step, step.kept_TE & ~_image_tokens(step)[:, None])
        if bool((text_DE > most_D.clamp(min=1)[:, None]).any()):
            raise CheckFailure(
                f"{step.name}: {int(text_DE.max())} text pairs are beyond MACS's capacity {most_D}"
            )
        dropped += int((step.chosen_TE & ~step.kept_TE).sum())
    if dropped == 0:
        raise CheckFailure("MACS dropped nothing, so nothing was shown")
    return dropped


def _image_tokens(step: LayerStep) -> Tensor:
    if step.tokens.image_T is None:
        raise CheckFailure(f"{step.name}: its image tokens are not known")
    return step.tokens.image_T
