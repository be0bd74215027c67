"""The model: OLMoE's architecture at a small size."""

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from tools.errors import RecipeError
from tools.text_model.recipe import Recipe


def build_config(recipe: Recipe) -> OlmoeConfig:
    """The architecture of the recipe; ids 0 and 1 are the tokenizer's end-of-text and padding."""
    return OlmoeConfig(
        vocab_size=recipe.vocab_size, hidden_size=recipe.hidden_size, intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers, num_attention_heads=recipe.num_heads,
        num_experts=recipe.num_experts, num_experts_per_tok=recipe.num_experts_per_token,
        max_position_embeddings=recipe.max_positions, initializer_range=recipe.initializer_range,
        tie_word_embeddings=recipe.tie_embeddings, router_aux_loss_coef=recipe.aux_loss_coefficient,
        norm_topk_prob=False, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip


def build_model(recipe: Recipe) -> OlmoeForCausalLM:
    """A fresh model with weights drawn from the recipe's seed. Raises `RecipeError` for sizes that do not divide."""
    for name, multiple in (("hidden_size", 32), ("intermediate_size", 32), ("num_experts", 8)):
        value = getattr(recipe, name)
        if value % multiple:
            raise RecipeError(f"{name} must be a multiple of {multiple}, got {value}")
    if recipe.hidden_size // recipe.num_heads not in (32, 64):
        raise RecipeError(f"head size must be 32 or 64, got {recipe.hidden_size / recipe.num_heads:g}")
    torch.manual_seed(recipe.seed)
    return OlmoeForCausalLM(build_config(recipe))


def num_parameters(model: torch.nn.Module) -> int:
    """Weights of the model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
