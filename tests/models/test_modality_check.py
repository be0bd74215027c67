"""The check of every vision-language architecture with images fails where a modality policy does."""

from __future__ import annotations

import pytest
import torch

from evenmoe.models import batch
from evenmoe.models.catalog import CATALOG
from evenmoe.models.check import check_architecture, modalities
from evenmoe.models.tiny import IMAGE_FORMATS
from evenmoe.routing import Macs, TokenDrop


def failure(model_type: str = "qwen3_vl_moe") -> str:
    """The message of the criterion with images."""
    return check_architecture(model_type, ["images"]).message


def test_every_vision_language_architecture_is_checked_with_images() -> None:
    assert set(IMAGE_FORMATS) == {
        name for name, entry in CATALOG.items() if entry.modality == "vision-language"
    }


def test_a_sound_policy_passes() -> None:
    assert failure() == ""


@pytest.mark.parametrize("instead", ["uniform", "text-first"])
def test_catches_another_order(monkeypatch: pytest.MonkeyPatch, instead: str) -> None:
    def wrong(*, gamma: float, modality: str) -> TokenDrop:
        return TokenDrop(gamma=gamma, modality=instead if modality == "image-first" else modality)

    monkeypatch.setattr(modalities, "TokenDrop", wrong)
    assert "image-first lost a pair of the other modality first" in failure()


def test_catches_a_macs_that_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Macs, "_keep", lambda _self, _scores, chosen_TE, _ctx: chosen_TE.clone())
    assert "text pairs are beyond MACS's capacity" in failure()


def test_catches_image_tokens_that_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_self: object, ids: torch.Tensor | None, _given: object) -> torch.Tensor | None:
        return None if ids is None else torch.zeros_like(ids, dtype=torch.bool)

    monkeypatch.setattr(batch.CallReader, "_image_positions", none)
    assert "0 image tokens are known of 64" in failure()


def test_a_canvas_that_is_denoised_is_text() -> None:
    assert failure("diffusion_gemma") == ""
