"""Looking up a prompt in transformers' cache says what transformers itself would find there, and takes nothing."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.requests import RequestState

from evenmoe.models.bundled import bundled_path
from evenmoe.serving.transformers.prefixes import Prefixes

PAGE = 4


def new_cache(*, shares=True):
    config = AutoConfig.from_pretrained(bundled_path("text"))
    config._attn_implementation = "sdpa"
    batching = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=64, max_batch_tokens=64, max_memory_percent=0.6, allow_block_sharing=shares
    )
    helper = DistributedHelper(device_mesh=None, cpu_group_timeout=None, tp_plan={})
    return PagedAttentionCache(config, batching, torch.device("cpu"), helper, dtype=torch.float32)


def compute(cache, key, ids):
    """As if a request's prompt had been computed."""
    state = RequestState(request_id=key, initial_tokens=ids)
    assert cache.can_store_request_tokens(state, len(ids))
    cache.mark_complete_blocks(state, {"full_attention": len(ids) // PAGE})


@settings(max_examples=30)
@given(
    computed=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), max_size=4),
    asked=st.lists(st.integers(0, 1), min_size=1, max_size=14),
)
def test_it_finds_what_transformers_finds(computed, asked):
    cache = new_cache()
    prefixes = Prefixes(cache)
    for number, ids in enumerate(computed):
        compute(cache, f"r{number}", ids)
    free = cache.compute_free_capacity()
    found = prefixes.cached_tokens(prefixes.hashes(asked))
    assert cache.compute_free_capacity() == free
    assert found == cache.search_prefix_match("asked", asked)


def test_nothing_is_found_where_blocks_are_not_shared():
    cache = new_cache(shares=False)
    compute(cache, "r0", [1] * 12)
    prefixes = Prefixes(cache)
    assert prefixes.cached_tokens(prefixes.hashes([1] * 12)) == 0
