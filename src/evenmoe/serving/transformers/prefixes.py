"""Prefixes: how many tokens of a prompt transformers' cache holds already, so that no expert runs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.generation.continuous_batching.cache_allocators.cache_allocator import compute_block_hash

Hashes = tuple[tuple[int, ...], ...]
"""For each of the cache's allocators, the hashes of a prompt's whole blocks."""


class Prefixes:
    """Looks prompts up in the ledgers of a PagedAttentionCache, without taking any block of it."""

    def __init__(self, cache: Any) -> None:
        self._allocators = tuple(cache.cache_allocators.values()) if cache.use_prefix_sharing else ()

    def hashes(self, ids_T: Sequence[int]) -> Hashes:
        """What a prompt's blocks are found by: computed once, as prompts are long and asked about often."""
        return tuple(_hashes(ids_T, allocator.tokens_per_page) for allocator in self._allocators)

    def cached_tokens(self, hashes: Hashes) -> int:
        """Tokens that the prompt begins with and the cache holds now: whole blocks, never the last token."""
        found = []
        for allocator, chain in zip(self._allocators, hashes, strict=True):
            known = allocator.ledger.hash_to_block
            blocks = next((number for number, block in enumerate(chain) if block not in known), len(chain))
            found.append(blocks * allocator.tokens_per_page)
        return min(found, default=0)


def _hashes(ids_T: Sequence[int], page: int) -> tuple[int, ...]:
    chain: list[int] = []
    for begin in range(0, len(ids_T) - page, page):
        chain.append(compute_block_hash(chain[-1] if chain else None, list(ids_T[begin : begin + page])))
    return tuple(chain)
