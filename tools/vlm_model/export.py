"""Export: the folder that ships, in the layout that transformers loads."""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from evenmoe.evaluation.scenes import IMAGE_SIZE
from tools.checkpoints import write_checkpoint
from tools.errors import RecipeError
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.tokenizer import words_of

_SAMPLE = "Is the red circle left of the blue square?"


def export_processor(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, out: Path) -> None:
    """Write tokenizer, chat template and image processor. Any picture is scaled to about the size of training."""
    tokenizer.save_pretrained(out)
    if tokenizer.convert_ids_to_tokens(tokenizer(_SAMPLE)["input_ids"]) != words_of(_SAMPLE):
        raise RecipeError("the tokenizer does not cut text into words")
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}, patch_size=recipe.patch_size,
        merge_size=recipe.merge_size, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    processor.save_pretrained(out)
    path = out / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # The stock name, under which every version of transformers finds the class that it has.
    settings |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def export_model(model: Qwen3VLMoeForConditionalGeneration, out: Path) -> Qwen3VLMoeForConditionalGeneration:
    """Write the checkpoint in bfloat16; return it as loaded back by transformers, in float32."""
    copy = Qwen3VLMoeForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    write_checkpoint(copy, out)
    return load_model(out)


def load_model(out: Path) -> Qwen3VLMoeForConditionalGeneration:
    """Load the exported checkpoint as any user would, for measuring in float32."""
    model: Qwen3VLMoeForConditionalGeneration = Qwen3VLMoeForConditionalGeneration.from_pretrained(
        out, dtype=torch.float32, local_files_only=True
    )
    return model.eval()
