"""vLLM in this process, where its engine can be looked at: one model after the other."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager


@contextmanager
def llm(folder, evenmoe=None, **options):
    """An engine on a model folder, with evenmoe configured so or not at all; gone at the end of the block."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    settings = {
        "dtype": "float32",
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "max_model_len": 256,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 64 << 20,
        "seed": 0,
        "enable_prefix_caching": False,
        "additional_config": {} if evenmoe is None else {"evenmoe": evenmoe},
    }
    engine = LLM(str(folder), **settings | options)
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def answers(engine, prompts, num_tokens=8):
    """The tokens that greedy decoding answers each prompt of ids with."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def routing_of(engine):
    """evenmoe's own engine within this process, which counts what was routed."""
    from evenmoe.serving.vllm.process import engine_of

    return engine_of(engine.llm_engine.vllm_config)
