"""Make the bundled text model: `python -m tools.text_model --work DIR --out DIR`.

Run again after an interruption, the same command goes on where it stopped.
"""

import argparse
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from tools.errors import RecipeError
from tools.text_model.card import write_card
from tools.text_model.corpus import write_corpus
from tools.text_model.export import export_model, export_texts, export_tokenizer
from tools.text_model.metrics import collect_metrics, write_metrics
from tools.text_model.recipe import Recipe
from tools.text_model.sources import gather_sources
from tools.text_model.tokenizer import encode_corpus, train_tokenizer
from tools.text_model.train import Trainer

logger = logging.getLogger("tools.text_model")


def main(arguments: list[str] | None = None) -> int:
    """Run the recipe; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.text_model", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="cache, corpus and training state; may be kept"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the model to")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for training (default: 2)")
    parser.add_argument("--early", type=Path, help="also export the model here at each training checkpoint")
    parser.add_argument("--steps", type=int, help="train fewer steps than the recipe, for a trial")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    recipe = Recipe() if options.steps is None else replace(Recipe(), num_steps=options.steps)
    try:
        torch.set_num_threads(options.threads)
        make_model(recipe, options.work, options.out, options.early)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make_model(recipe: Recipe, work: Path, out: Path, early: Path | None) -> None:
    """Gather, split, tokenise, train, measure, export."""
    start = time.perf_counter()
    corpus = make_corpus(recipe, work)
    tokenizer = make_tokenizer(recipe, work, corpus)
    train = encode_corpus(tokenizer, corpus, recipe, "train")
    held_out = encode_corpus(tokenizer, corpus, recipe, "heldout")
    logger.info("%.0f s for text and tokenizer", time.perf_counter() - start)
    for folder in (out, early):
        if folder is not None:
            export_texts(corpus, recipe, folder)
            export_tokenizer(tokenizer, recipe, folder)

    def export_early(trainer: Trainer) -> None:
        if early is not None:
            export_model(trainer.model, early)

    trainer = Trainer(recipe, train, held_out, work)
    if trainer.resume():
        logger.info("resuming at step %d of %d", trainer.step, recipe.num_steps)
    trainer.run(on_save=export_early)
    model = export_model(trainer.model, out)
    metrics = collect_metrics(recipe, corpus, tokenizer, trainer, model)
    write_metrics(metrics, out)
    write_card(out)
    logger.info("wrote %s after %.0f s", out, time.perf_counter() - start)


def make_corpus(recipe: Recipe, work: Path) -> Path:
    """The corpus folder, gathered unless the same recipe has gathered it before."""
    corpus, stamp = work / "corpus", work / "corpus" / "recipe.json"
    settings = json.dumps(recipe.text_settings())
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != settings:
        logger.info("gathering text into %s", corpus)
        write_corpus(gather_sources(recipe, work / "cache"), recipe, corpus)
        stamp.write_text(settings, encoding="utf-8")
    return corpus


def make_tokenizer(recipe: Recipe, work: Path, corpus: Path) -> Tokenizer:
    """The trained tokenizer, kept beside the corpus."""
    path = corpus / "tokenizer.json"
    if not path.exists() or path.stat().st_mtime < (corpus / "recipe.json").stat().st_mtime:
        logger.info("training the tokenizer")
        train_tokenizer(corpus, recipe).save(str(path))
    return Tokenizer.from_file(str(path))


if __name__ == "__main__":
    sys.exit(main())
