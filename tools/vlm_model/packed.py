"""The forward pass of training: the stock modules, with all images of a batch at once and questions packed.

Shape letters: B images, P patches, N image tokens, S positions, A positions with a target,
H hidden, V vision hidden.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from tools.vlm_model.batches import FIRST_IMAGE_POSITION, IGNORED, Batch


def cut_patches(pixels_BYX3: npt.NDArray[np.uint8], patch: int, merge: int) -> npt.NDArray[np.float32]:
    """Pixels scaled to -1..1 and cut into patches, [B, P, 3 * patch * patch].

    The patches that one image token merges follow each other, as the architecture wants them.
    """
    num_images, height, width, channels = pixels_BYX3.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    scaled: npt.NDArray[np.float32] = (
        pixels_BYX3.astype(np.float32) / np.float32(255) - np.float32(0.5)
    ) / np.float32(0.5)
    cut = scaled.reshape(num_images, rows, merge, patch, columns, merge, patch, channels)
    cut = cut.transpose(0, 1, 4, 2, 5, 7, 3, 6)
    return cut.reshape(num_images, rows * columns * merge * merge, channels * patch * patch)


def see(
    model: Qwen3VLMoeForConditionalGeneration, pixels_BYX3: npt.NDArray[np.uint8]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The vision tower on a batch: image tokens [B, N, H], and the same from each deepstack layer."""
    visual = model.model.visual
    config = visual.config
    patches = torch.from_numpy(cut_patches(pixels_BYX3, config.patch_size, config.spatial_merge_size))
    # An image is a film of two equal frames, so their weights add up.
    weight = visual.patch_embed.proj.weight.sum(2).flatten(1)
    hidden_BPV = nn.functional.linear(patches, weight, visual.patch_embed.proj.bias)
    grid = torch.tensor([[1, *(size // config.patch_size for size in pixels_BYX3.shape[1:3])]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=visual.num_grid_per_side, mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners, spatial_merge_size=config.spatial_merge_size, kwargs={},
    )  # fmt: skip
    hidden_BPV = hidden_BPV + (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    positions = get_vision_position_ids(grid, config.spatial_merge_size, kwargs={})
    rotation = visual.rotary_pos_emb(hidden_BPV, positions)
    deep = []
    for i, block in enumerate(visual.blocks):
        hidden_BPV = hidden_BPV + _attend(block.attn, block.norm1(hidden_BPV), rotation)
        hidden_BPV = hidden_BPV + block.mlp(block.norm2(hidden_BPV))
        if i in config.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[config.deepstack_visual_indexes.index(i)]
            deep.append(merger(hidden_BPV).view(len(pixels_BYX3), -1, config.out_hidden_size))
    return visual.merger(hidden_BPV).view(len(pixels_BYX3), -1, config.out_hidden_size), deep


def _attend(
    attention: Any, hidden_BPV: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    num_images, num_patches, _ = hidden_BPV.shape
    qkv = attention.qkv(hidden_BPV).view(num_images, num_patches, 3, attention.num_heads, -1)
    query, key, value = qkv.unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, *rotation)
    out = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (query, key, value)))
    projected: torch.Tensor = attention.proj(out.transpose(1, 2).flatten(2))
    return projected


def read(
    model: Qwen3VLMoeForConditionalGeneration, batch: Batch, image_BNH: torch.Tensor, deep: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The language model on a packed batch and its image tokens.

    Returns the final hidden states at the positions with a target [A, H], and every earlier layer's output
    [B, S, H]. The last layer is only computed where something is asked: elsewhere nothing reads it.
    """
    language = model.model.language_model
    first, length = FIRST_IMAGE_POSITION, batch.ids_BS.shape[1]
    before, after = batch.ids_BS[:, :first], batch.ids_BS[:, first + image_BNH.shape[1] :]
    embed = language.embed_tokens
    hidden_BSH = torch.cat([embed(before), image_BNH, embed(after)], dim=1)
    rotation = language.rotary_emb(hidden_BSH, batch.positions_3BS)
    mask = torch.zeros(()).where(visible(batch.segments_BS), torch.tensor(-1e9))
    outputs = []
    for i, layer in enumerate(language.layers[:-1]):
        hidden_BSH = layer(hidden_BSH, attention_mask=mask, position_embeddings=rotation)
        if i < len(deep):
            padding = (0, 0, first, length - first - deep[i].shape[1])
            hidden_BSH = hidden_BSH + nn.functional.pad(deep[i], padding)
        outputs.append(hidden_BSH)
    last = language.layers[-1]
    attended_BSH = last.self_attn(last.input_layernorm(hidden_BSH), rotation, mask)[0]
    asked_BS = batch.targets_BS != IGNORED
    hidden_AH = (hidden_BSH + attended_BSH).flatten(0, 1)[asked_BS.flatten().nonzero()[:, 0]]
    hidden_AH = hidden_AH + last.mlp(last.post_attention_layernorm(hidden_AH)[None])[0]
    return language.norm(hidden_AH), outputs


def visible(segments_BS: torch.Tensor) -> torch.Tensor:
    """Which position sees which, [B, 1, S, S] bool: what comes before it, of the image or of its own question."""
    length = segments_BS.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = segments_BS[:, :, None] == segments_BS[:, None, :]
    return (causal & (same | (segments_BS == 0)[:, None, :]))[:, None]
