"""Random inputs for the tiny models: text, and images where the architecture's image path is checked too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from evenmoe.errors import ConfigError
from evenmoe.models.tiny.defaults import (
    FIRST_TEXT_ID,
    IMAGE_END_ID,
    IMAGE_ID,
    IMAGE_START_ID,
    LAST_TEXT_ID,
    PAD_ID,
)
from evenmoe.models.tiny.table import TINY_CONFIGS

_PATCH = 4  # pixels, `patch_size` of every tiny vision part
_IMAGE = 32  # pixels
_GRID = _IMAGE // _PATCH  # patches along one side


Extra = Literal[
    "pixel_mask",
    "image_sizes",
    "image_grid_thw",
    "merged_grid_thw",
    "image_position_ids",
    "mm_token_type_ids",
    "moe_mm_token_type_ids",
]
_GRID_ARGUMENTS: tuple[Extra, ...] = ("image_grid_thw", "mm_token_type_ids")


Pixels = Literal["patches", "square patches", "patches by image", "merged patches", "frames", "image"]


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """How an architecture takes one image: `num_tokens` placeholders in the text, the pixels, and other arguments.

    pixels: "patches", each flattened from `patch_frames` frames; "square patches", the same not flattened; "patches by
    image", flattened, each image's its own; "merged patches", squares of 2 x 2 patches with the colours last;
    "frames", patches of `patch_frames` frames with the colours last; or the "image" as it is.
    extra: other arguments by their names; "merged_grid_thw" is image_grid_thw counted in merged patches.
    """

    num_tokens: int = _GRID * _GRID // 4
    pixels: Pixels = "patches"
    patch_frames: int = 2
    extra: tuple[Extra, ...] = _GRID_ARGUMENTS


IMAGE_FORMATS: dict[str, ImageFormat] = {
    "aria": ImageFormat(num_tokens=8, pixels="image", extra=("pixel_mask",)),
    "deepseek_ocr2": ImageFormat(num_tokens=145, pixels="image", extra=()),  # 12 x 12 queries and a separator
    "diffusion_gemma": ImageFormat(
        pixels="patches by image", patch_frames=1, extra=("image_position_ids", "mm_token_type_ids")
    ),
    "ernie4_5_vl_moe": ImageFormat(patch_frames=1, extra=(*_GRID_ARGUMENTS, "moe_mm_token_type_ids")),
    "gemma4": ImageFormat(
        pixels="patches by image", patch_frames=1, extra=("image_position_ids", "mm_token_type_ids")
    ),
    "glm4v_moe": ImageFormat(),
    "glm5_next": ImageFormat(),
    "inkling_mm_model": ImageFormat(pixels="frames", extra=()),
    "inkling2": ImageFormat(pixels="merged patches", extra=("merged_grid_thw",)),
    "kimi_k25": ImageFormat(pixels="square patches", patch_frames=1, extra=("image_grid_thw",)),
    "llama4": ImageFormat(pixels="image", extra=()),
    "minimax_m3_vl": ImageFormat(extra=("image_grid_thw",)),
    "mistral_large4": ImageFormat(pixels="image", extra=("image_sizes",)),
    "muse_spark": ImageFormat(extra=("image_grid_thw",)),
    "qwen3_5_moe": ImageFormat(),
    "qwen3_omni_moe_thinker": ImageFormat(),
    "qwen3_vl_moe": ImageFormat(),
    "qwen4_exp": ImageFormat(),
    "step3p7": ImageFormat(num_tokens=4, pixels="image", extra=()),
    "unlimited_ocr": ImageFormat(num_tokens=7, pixels="image", extra=()),
}
"""The architectures that are checked with images too."""


def tiny_inputs(
    model_type: str,
    batch: int = 2,
    length: int = 24,
    *,
    seed: int = 0,
    pad: int = 0,
    images: bool = False,
) -> dict[str, torch.Tensor]:
    """Keyword arguments for a forward of `tiny_model(model_type)`: input_ids, attention_mask and what it needs.

    `batch` rows of `length` random tokens, then `pad` padding columns. `images=True` puts one random image
    in the middle of each row (its placeholders count in `length`). The same arguments give the same tokens.
    Raises ConfigError for an unknown name, and for images where the architecture has no format for them here.
    """
    if model_type not in TINY_CONFIGS:
        raise ConfigError("model_type", model_type, "one of " + ", ".join(sorted(TINY_CONFIGS)))
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(FIRST_TEXT_ID, LAST_TEXT_ID + 1, (batch, length), generator=generator)
    inputs: dict[str, torch.Tensor] = {}
    if model_type == "diffusion_gemma":  # the canvas it denoises; drawn at random inside forward if not given
        inputs["decoder_input_ids"] = ids_BT[:, :8].flip(1)
    if images:
        if model_type not in IMAGE_FORMATS:
            raise ConfigError("images", True, "True only for " + ", ".join(sorted(IMAGE_FORMATS)))
        inputs |= _add_images(ids_BT, IMAGE_FORMATS[model_type], generator)
    inputs["attention_mask"] = torch.ones_like(ids_BT)
    inputs["input_ids"] = ids_BT
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "moe_mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, pad), value=PAD_ID)
    return inputs


def _add_images(
    ids_BT: torch.Tensor, image: ImageFormat, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Write the placeholders into `ids_BT` and return the other image arguments."""
    batch, length = ids_BT.shape
    if length < image.num_tokens + 4:
        raise ConfigError("length", length, f"at least {image.num_tokens + 4} with an image")
    start = (length - image.num_tokens) // 2
    ids_BT[:, start - 1] = IMAGE_START_ID
    ids_BT[:, start : start + image.num_tokens] = IMAGE_ID
    ids_BT[:, start + image.num_tokens] = IMAGE_END_ID
    is_image_BT = (ids_BT == IMAGE_ID).int()
    is_edge_BT = ((ids_BT == IMAGE_START_ID) | (ids_BT == IMAGE_END_ID)).int()
    arguments: dict[Extra, torch.Tensor] = {
        "pixel_mask": torch.ones(batch, _IMAGE, _IMAGE, dtype=torch.bool),
        "image_sizes": torch.tensor([[_IMAGE, _IMAGE]] * batch),
        "image_grid_thw": torch.tensor([[1, _GRID, _GRID]] * batch),
        "merged_grid_thw": torch.tensor([[1, _GRID // 2, _GRID // 2]] * batch),
        "image_position_ids": torch.cartesian_prod(torch.arange(_GRID), torch.arange(_GRID))
        .flip(1)
        .expand(batch, -1, -1),
        "mm_token_type_ids": is_image_BT,
        "moe_mm_token_type_ids": is_image_BT | is_edge_BT,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "image": (batch, 3, _IMAGE, _IMAGE),
        "square patches": (batch * _GRID * _GRID, 3 * image.patch_frames, _PATCH, _PATCH),
        "patches": (batch * _GRID * _GRID, 3 * image.patch_frames * _PATCH * _PATCH),
        "patches by image": (batch, _GRID * _GRID, 3 * image.patch_frames * _PATCH * _PATCH),
        "merged patches": (batch * image.num_tokens, 2 * _PATCH, 2 * _PATCH, 3),
        "frames": (batch * image.num_tokens, image.patch_frames, _PATCH, _PATCH, 3),
    }
    pixels = torch.randn(shapes[image.pixels], generator=generator)
    return {"pixel_values": pixels} | {
        name.replace("merged", "image"): arguments[name] for name in image.extra
    }
