"""A recipe of the vision-language model so small that the whole of it runs in seconds."""

from pathlib import Path

from evenmoe.evaluation.scenes import heldout_digits, heldout_items
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.tokenizer import build_tokenizer, vocabulary
from tools.vlm_model.train import Trainer

TINY = Recipe(
    hidden_size=32, num_layers=3, num_heads=1, head_size=32, num_experts=8, num_experts_per_token=2, expert_size=32,
    vision_size=32, vision_inner_size=32, vision_depth=2, vision_heads=1, deepstack_layers=(0,),
    mention_layers=(0, 1), pair_layer=1, images_per_step=3, questions_per_image=4, vision_steps=2, late_step=4,
    num_steps=6, warmup_steps=2, log_every=1, evaluate_every=4, save_every=4,
)  # fmt: skip
TOKENIZER = build_tokenizer(vocabulary())


def tiny_trainer(folder: Path, recipe: Recipe = TINY) -> Trainer:
    """A trainer that takes any digits: here those that ship."""
    return Trainer(recipe, TOKENIZER, heldout_digits(), list(heldout_items(1)), folder)
