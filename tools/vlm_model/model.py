"""The model: Qwen3-VL-MoE's architecture at a small size."""

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from evenmoe.evaluation.scenes import IMAGE_SIZE
from tools.errors import RecipeError
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.tokenizer import IMAGE, VIDEO, VISION_END, VISION_START


def build_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLMoeConfig:
    """The architecture of the recipe, with the tokenizer's special ids."""
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": recipe.hidden_size, "intermediate_size": recipe.expert_size,
        "num_hidden_layers": recipe.num_layers, "num_attention_heads": recipe.num_heads,
        "num_key_value_heads": recipe.num_heads, "head_dim": recipe.head_size, "num_experts": recipe.num_experts,
        "num_experts_per_tok": recipe.num_experts_per_token, "moe_intermediate_size": recipe.expert_size,
        "router_aux_loss_coef": recipe.aux_loss_coefficient, "max_position_embeddings": recipe.max_positions,
        "initializer_range": recipe.initializer_range, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": recipe.rope_theta,
                            "mrope_section": list(recipe.rope_sections), "mrope_interleaved": True},
        **special,
    }  # fmt: skip
    vision = {
        "depth": recipe.vision_depth, "hidden_size": recipe.vision_size, "num_heads": recipe.vision_heads,
        "intermediate_size": recipe.vision_inner_size, "out_hidden_size": recipe.hidden_size,
        "patch_size": recipe.patch_size, "spatial_merge_size": recipe.merge_size, "temporal_patch_size": 2,
        "num_position_embeddings": (IMAGE_SIZE // recipe.patch_size) ** 2,
        "deepstack_visual_indexes": list(recipe.deepstack_layers), "initializer_range": recipe.initializer_range,
    }  # fmt: skip
    image, video, start, end = (
        tokenizer.convert_tokens_to_ids(token) for token in (IMAGE, VIDEO, VISION_START, VISION_END)
    )
    return Qwen3VLMoeConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end, tie_word_embeddings=True, **special,
    )  # fmt: skip


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLMoeForConditionalGeneration:
    """A fresh model with weights drawn from the recipe's seed. Raises `RecipeError` for sizes that do not divide."""
    for name, multiple in (("hidden_size", 32), ("expert_size", 32), ("num_experts", 8)):
        value = getattr(recipe, name)
        if value % multiple:
            raise RecipeError(f"{name} must be a multiple of {multiple}, got {value}")
    if IMAGE_SIZE % (recipe.patch_size * recipe.merge_size):
        raise RecipeError(
            f"{recipe.merge_size} patches of {recipe.patch_size} pixels must divide {IMAGE_SIZE}"
        )
    torch.manual_seed(recipe.seed)
    model = Qwen3VLMoeForConditionalGeneration(build_config(recipe, tokenizer))
    with torch.no_grad():
        model.model.visual.pos_embed.weight.mul_(recipe.position_scale)
    return model


def num_parameters(model: torch.nn.Module) -> int:
    """Weights of the model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
