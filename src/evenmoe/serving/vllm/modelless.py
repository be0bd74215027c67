"""vLLM's scheduler with its real KV cache manager, and no model: for benchmarks and tests of what it decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

BLOCK = 16
"""Tokens of a block of the KV cache."""

_MAX_LEN = 2048
_MODEL = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 1,
    "vocab_size": 65536,
    "max_position_embeddings": _MAX_LEN,
}


def new_scheduler(
    kind: type[Any],
    folder: Path,
    additional: Mapping[str, Any] | None = None,
    *,
    num_blocks: int = 1000,
    max_num_seqs: int = 4,
    max_num_batched_tokens: int = 512,
    policy: str = "fcfs",
    caching: bool = False,
    is_async: bool = False,
    logits_processors: Sequence[str] | None = None,
) -> Any:
    """A scheduler of the class `kind`. `folder`: where the configuration of the model that is not there is put."""
    (folder / "config.json").write_text(json.dumps(_MODEL), encoding="utf-8")
    model = ModelConfig(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        seed=0,
        max_model_len=_MAX_LEN,
        logits_processors=logits_processors,
    )
    scheduling = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=_MAX_LEN,
        policy=policy,
        is_encoder_decoder=False,
        enable_chunked_prefill=True,
    )
    config = VllmConfig(
        model_config=model,
        scheduler_config=scheduling,
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=caching),
        additional_config=dict(additional or {}),
    )
    config.scheduler_config.async_scheduling = is_async
    config.cache_config.num_gpu_blocks = num_blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    caches = KVCacheConfig(
        num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    return kind(
        vllm_config=config,
        kv_cache_config=caches,
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        hash_block_size=BLOCK,
        log_stats=True,
    )


def new_request(
    name: object,
    ids: Sequence[int],
    *,
    max_tokens: int = 4,
    priority: int = 0,
    arrival_s: float = 0.0,
    load: object = None,
) -> Request:
    """A request for so many tokens after this prompt; `load`: what its client says of it."""
    hasher = get_hash_fn_by_name("sha256")
    init_none_hash(hasher)
    return Request(
        request_id=str(name),
        prompt_token_ids=list(ids),
        sampling_params=SamplingParams(
            max_tokens=max_tokens, ignore_eos=True, extra_args=None if load is None else {"expert_load": load}
        ),
        pooling_params=None,
        priority=priority,
        arrival_time=arrival_s,
        block_hasher=get_request_block_hasher(BLOCK, hasher),
    )


def made_up_output(scheduler: Any, output: Any) -> ModelRunnerOutput:
    """What a model might have answered to a step: each request's next token is decided by its own text alone."""
    names = list(output.num_scheduled_tokens)
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=[_sampled(scheduler.requests[name]) for name in names],
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


def _sampled(request: Request) -> list[int]:
    if request.num_computed_tokens < request.num_tokens:
        return []  # its prompt goes on
    return [(request.all_token_ids[-1] * 31 + request.num_prompt_tokens + 7 * request.num_tokens) % 256]
