"""What this process of vLLM has: at most one Engine for each configuration.

A model within a model is built from a changed copy of vLLM's configuration; what all copies share is its part about
compilation, in which layers are listed.
"""

from __future__ import annotations

import weakref
from typing import Any

from vllm.distributed import get_tensor_model_parallel_rank

from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.vllm.arrivals import Limits
from evenmoe.serving.vllm.checks import check_engine
from evenmoe.serving.vllm.engine import Engine
from evenmoe.serving.vllm.scheduling_checks import check_scheduler_is_ours
from evenmoe.serving.vllm.settings import settings_of

_ENGINES: list[tuple[weakref.ref[Any], Engine]] = []


def engine_of(vllm_config: Any) -> Engine | None:
    """This process's engine for a vLLM configuration, made when first asked for; None where evenmoe is not configured.

    Raises ConfigError and FileFormatError for a configuration that cannot act.
    """
    shared = vllm_config.compilation_config
    for known, engine in _ENGINES:
        if known() is shared:
            return engine
    settings = settings_of(vllm_config)
    if settings is None:
        return None
    check_engine(vllm_config, settings.routing)
    check_scheduler_is_ours(vllm_config.scheduler_config.scheduler_cls, settings.scheduling)
    spool = Spool.ensured() if get_tensor_model_parallel_rank() == 0 else None
    engine = Engine(settings, spool)
    engine.limits = lambda context: _limits(vllm_config, context)
    _ENGINES[:] = [entry for entry in _ENGINES if entry[0]() is not None]
    _ENGINES.append((weakref.ref(shared), engine))
    return engine


def engines() -> list[Engine]:
    """The engines of this process whose configuration is still in use, oldest first."""
    return [engine for known, engine in _ENGINES if known() is not None]


def _limits(vllm_config: Any, context: Any) -> Limits:
    scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
    return Limits(
        max_tokens=scheduler.max_num_scheduled_tokens or scheduler.max_num_batched_tokens,
        max_requests=scheduler.max_num_seqs,
        max_length=vllm_config.model_config.max_model_len,
        block_size=cache.block_size,
        num_blocks=cache.num_gpu_blocks or _cpu_blocks(context),
    )


def _cpu_blocks(context: Any) -> int | None:
    """Blocks of the KV cache by its first dimension, as on CPUs, where workers are not told."""
    for name in context.attn_metadata:
        cache = getattr(context.no_compile_layers.get(name), "kv_cache", None)
        if cache is not None and cache.device.type == "cpu":
            return int(cache.shape[0])
    return None
