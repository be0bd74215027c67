"""Export: the folder that ships, in the layout that transformers loads."""

import logging
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeForCausalLM

from tools.checkpoints import write_checkpoint
from tools.errors import RecipeError
from tools.text_model.recipe import Recipe
from tools.text_model.tokenizer import save_tokenizer

logger = logging.getLogger(__name__)


def export_texts(corpus: Path, recipe: Recipe, out: Path) -> None:
    """Copy the held-out text of every domain to `heldout/<domain>.txt`, with licences in `heldout/licences`."""
    (out / "heldout").mkdir(parents=True, exist_ok=True)
    for domain in recipe.domains:
        shutil.copyfile(corpus / "heldout" / f"{domain}.txt", out / "heldout" / f"{domain}.txt")
    shutil.copytree(corpus / "licences", out / "heldout" / "licences", dirs_exist_ok=True)


def export_tokenizer(tokenizer: Tokenizer, recipe: Recipe, out: Path) -> None:
    """Write the tokenizer and check that what transformers loads encodes and decodes the same."""
    save_tokenizer(tokenizer, recipe, out)
    loaded = AutoTokenizer.from_pretrained(out, local_files_only=True)
    sample = "def f(x):\n\treturn x ** 2  # Größe, déjà vu; 1234 → 5\n\n\n    SELECT 1;"
    expected = tokenizer.encode(sample).ids
    if loaded(sample)["input_ids"] != expected or loaded.decode(expected) != sample:
        raise RecipeError(f"the tokenizer that transformers loads from {out} differs from the trained one")


def export_model(model: OlmoeForCausalLM, out: Path) -> OlmoeForCausalLM:
    """Write the checkpoint in bfloat16; return it as loaded back by `AutoModelForCausalLM`, in float32."""
    copy = OlmoeForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    write_checkpoint(copy, out)
    return load_model(out)


def load_model(out: Path) -> OlmoeForCausalLM:
    """Load the exported checkpoint as any user would, for measuring in float32."""
    model: OlmoeForCausalLM = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, local_files_only=True
    )
    return model.eval()
