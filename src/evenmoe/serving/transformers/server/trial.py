"""Trial: whether transformers' continuous batching can run a model at all, found out before anybody is served."""

from __future__ import annotations

from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from evenmoe.errors import UnsupportedModelError


def check_generates(model: Any) -> None:
    """Generate two tokens, one of a prompt and one after it. Raises UnsupportedModelError with transformers' reason.

    Its one cache is for full attention and sliding windows: not, for one, for linear attention, or for heads whose keys
    and values differ in size. Some of that shows only in a forward, which then ends the engine.
    """
    try:
        outputs = model.generate_batch(
            [[0, 0]],
            generation_config=GenerationConfig(
                max_new_tokens=2, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=4,
                num_blocks=4,
                max_batch_tokens=4,
                max_requests_per_batch=1,
                use_cuda_graph=False,
                use_async_batching=False,
            ),
        )
    except Exception as error:  # whatever a model's parts raise when they meet a cache that is not theirs
        raise _unsupported(model, f"{type(error).__name__}: {error}") from error
    [reason] = [output.error for output in outputs.values()] or ["its forward fails; the log says why"]
    if reason is not None:
        raise _unsupported(model, reason)


def _unsupported(model: Any, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"transformers' continuous batching cannot run {model.config.model_type} here: {reason}"
    )
