"""A recipe so small that the whole of it runs in a second, and its sources."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tools.text_model.document import Document
from tools.text_model.recipe import Recipe
from tools.text_model.sources import Source
from tools.text_model.tokenizer import encode_corpus
from tools.text_model.train import Trainer

TINY = Recipe(
    vocab_size=320, hidden_size=32, intermediate_size=32, num_layers=2, num_heads=1, num_experts=8,
    num_experts_per_token=2, max_positions=64, num_steps=6, sequence_length=16, warmup_steps=2,
    sequences_per_step={"alpha": 2, "beta": 1}, evaluate_every=3, save_every=3, log_every=1,
    held_out_fraction=0.2, tokenizer_bytes=20_000,
)  # fmt: skip


def tiny_source(domain: str) -> Source:
    """Forty documents of made-up words, no two alike."""
    rng = np.random.default_rng(len(domain))
    texts = ["\n\n".join(" ".join(map(str, rng.integers(0, 999, 30))) for _ in range(8)) for _ in range(40)]
    documents = [Document(name=f"{domain}/{i}", text=text) for i, text in enumerate(texts)]
    return Source(
        domain=domain,
        origin="made up",
        version="1",
        licence="CC0-1.0",
        licence_text="Do as you like.\n",
        documents=documents,
    )


def tiny_trainer(corpus: Path, tokenizer: Tokenizer, folder: Path, recipe: Recipe = TINY) -> Trainer:
    """A trainer on the tiny corpus."""
    streams = encode_corpus(tokenizer, corpus, recipe, "train")
    return Trainer(recipe, streams, encode_corpus(tokenizer, corpus, recipe, "heldout"), folder)
