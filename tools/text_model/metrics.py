"""What the run measured, as data: everything the card says comes from here."""

import json
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import OlmoeForCausalLM

from tools.text_model.measure import measure_imbalance, measure_quality
from tools.text_model.model import num_parameters
from tools.text_model.recipe import Recipe
from tools.text_model.train import Trainer


def token_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """Bytes of text each token stands for, [vocabulary]; special tokens stand for none."""
    special = tokenizer.get_added_tokens_decoder()
    sizes = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.int64)
    for token, i in tokenizer.get_vocab().items():
        sizes[i] = 0 if i in special else len(token)  # byte-level BPE writes each byte as one character
    return sizes


def collect_metrics(
    recipe: Recipe, corpus: Path, tokenizer: Tokenizer, trainer: Trainer, model: OlmoeForCausalLM
) -> dict[str, Any]:
    """Measure the exported model and join it with the run's log and the corpus facts."""
    length = recipe.sequence_length
    return {
        "recipe": recipe.as_dict(),
        "parameters": num_parameters(model),
        "corpus": json.loads((corpus / "corpus.json").read_text(encoding="utf-8")),
        "quality": measure_quality(model, trainer.held_out, length, bytes_of_token=token_bytes(tokenizer)),
        "imbalance": measure_imbalance(model, trainer.held_out, length),
        "curve": trainer.log,
        "train_tokens": recipe.tokens_per_step * trainer.step,
        "train_stream_tokens": {domain: len(stream) for domain, stream in trainer.streams.items()},
        "train_seconds": trainer.seconds,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        },
    }  # fmt: skip


def write_metrics(metrics: dict[str, Any], out: Path) -> None:
    """Write `metrics.json`."""
    (out / "metrics.json").write_text(
        json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
