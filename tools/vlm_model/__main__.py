"""Make the bundled vision-language model: `python -m tools.vlm_model --work DIR --out DIR`.

Run again after an interruption, the same command goes on where it stopped.
"""

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from evenmoe.evaluation.scenes import heldout_items
from tools.errors import RecipeError
from tools.vlm_model.card import write_card
from tools.vlm_model.digits import training_digits
from tools.vlm_model.export import export_model, export_processor
from tools.vlm_model.metrics import collect_metrics, write_metrics
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.tokenizer import build_tokenizer, vocabulary
from tools.vlm_model.train import Trainer

logger = logging.getLogger("tools.vlm_model")
_WATCHED_PER_FAMILY = 50


def main(arguments: list[str] | None = None) -> int:
    """Run the recipe; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.vlm_model", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="training state; may be kept")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the model to")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for training (default: 2)")
    parser.add_argument("--early", type=Path, help="also export the model here at each training checkpoint")
    parser.add_argument("--steps", type=int, help="train fewer steps than the recipe, for a trial")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = Recipe() if options.steps is None else replace(Recipe(), num_steps=options.steps)
    try:
        torch.set_num_threads(options.threads)
        make_model(recipe, options.work, options.out, options.early)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make_model(recipe: Recipe, work: Path, out: Path, early: Path | None) -> None:
    """Train, export, measure, and write the card."""
    start = time.perf_counter()
    tokenizer = build_tokenizer(vocabulary())
    for folder in (work, out, early):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def export_early(trainer: Trainer) -> None:
        if early is not None:
            export_processor(tokenizer, recipe, early)
            export_model(trainer.model, early)

    watched = list(heldout_items(_WATCHED_PER_FAMILY))
    trainer = Trainer(recipe, tokenizer, training_digits(recipe), watched, work)
    if trainer.resume():
        logger.info("resuming at step %d of %d", trainer.step, recipe.num_steps)
    trainer.run(on_save=export_early)
    export_processor(tokenizer, recipe, out)
    model = export_model(trainer.model, out)
    write_metrics(collect_metrics(recipe, trainer, tokenizer, model), out)
    write_card(out)
    logger.info("wrote %s after %.0f s", out, time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
