"""Loading the processor of a vision-language model: tokenizer and image processor behind one call.

transformers builds the processors of the Qwen-VL families together with a video processor, which needs torchvision.
Pictures need none: where `AutoProcessor` fails, `ImageTextProcessor` joins the tokenizer with the image processor that
works on Pillow and numpy alone, and gives the same arrays.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, ProcessorMixin

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scoring.extras import require_extra
from evenmoe.models.loading import load_tokenizer

logger = logging.getLogger(__name__)
QWEN_VL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
_IMAGE_TOKEN = "<|image_pad|>"


class ImageTextProcessor(ProcessorMixin):  # type: ignore[misc]
    """Images and text of the Qwen-VL families, without video.

    Called with `images=` and `text=` it returns what the model takes: input_ids [B, S], attention_mask [B, S],
    mm_token_type_ids [B, S] (1 at image tokens), pixel_values [patches, values], image_grid_thw [images, 3].
    """

    return_mm_token_type_ids = True

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token = getattr(tokenizer, "image_token", None) or _IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """The text that stands for an image: one placeholder for each of its tokens."""
        num_patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return str(self.image_token) * (num_patches // int(self.image_processor.merge_size) ** 2)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> list[str]:
        """Write the files that `load_processor`, and `AutoProcessor` beside torchvision, read back."""
        self.tokenizer.chat_template = self.chat_template
        files = [*self.image_processor.save_pretrained(save_directory)]
        return [*files, *self.tokenizer.save_pretrained(save_directory)]


def load_processor(path_or_name: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Load the processor that goes with a vision-language checkpoint; it pads on the left, as generation needs it.

    Raises MissingExtraError without Pillow, ConfigError where the checkpoint has no processor that can be loaded.
    """
    require_extra("vlm", "PIL")
    try:
        processor = AutoProcessor.from_pretrained(str(path_or_name), trust_remote_code=trust_remote_code)
        problem = "AutoProcessor gives a tokenizer alone"
    except (ImportError, OSError, ValueError, TypeError) as error:
        processor, problem = None, str(error)
    if not hasattr(processor, "image_processor"):
        logger.info("%s: no stock processor (%s)", path_or_name, problem.splitlines()[0])
        processor = _image_text_processor(path_or_name, problem)
    processor.tokenizer.padding_side = "left"
    return processor


def _image_text_processor(path_or_name: str | Path, problem: str) -> ImageTextProcessor:
    tokenizer = load_tokenizer(path_or_name)
    try:
        model_type = AutoConfig.from_pretrained(str(path_or_name)).model_type
    except (OSError, ValueError) as error:
        raise ConfigError("path_or_name", str(path_or_name), f"a model's checkpoint ({error})") from error
    if model_type not in QWEN_VL_TYPES:
        allowed = f"a checkpoint whose processor loads here ({problem}), or one of {', '.join(QWEN_VL_TYPES)}"
        raise ConfigError("path_or_name", str(path_or_name), allowed)
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    try:
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(str(path_or_name))
    except OSError as error:
        allowed = f"a checkpoint with preprocessor_config.json ({error})"
        raise ConfigError("path_or_name", str(path_or_name), allowed) from error
    return ImageTextProcessor(image_processor, tokenizer, chat_template=_chat_template(path_or_name))


def _chat_template(path_or_name: str | Path) -> str | None:
    """The template of an older checkpoint, which keeps it apart from the tokenizer."""
    path = Path(path_or_name) / "chat_template.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["chat_template"]) if path.is_file() else None
