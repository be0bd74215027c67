"""Stand-ins for an engine: its attention metadata, and a scheduler that hands out, passes over and preempts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch


def metadata(contexts, lengths, *, padded_rows=0):
    """What most attention layers are told: where rows begin, and how long they are with their context."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    total = torch.tensor([context + length for context, length in zip(contexts, lengths, strict=True)])
    if padded_rows:
        starts = torch.cat([starts, starts[-1:].repeat(padded_rows)])
        total = torch.cat([total, torch.zeros(padded_rows, dtype=torch.long)])
    return {"layer": SimpleNamespace(query_start_loc=starts.int(), seq_lens=total.int())}


def split_metadata(contexts, lengths, num_decodes):
    """What layers of latent attention are told: of the decoding rows, and apart from them of the others."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    totals = [context + length for context, length in zip(contexts, lengths, strict=True)]
    others = contexts[num_decodes:]
    cached = SimpleNamespace(context_lens=torch.tensor(others)) if any(others) else None
    return {
        "layer": SimpleNamespace(
            query_start_loc=starts.int(),
            num_decodes=num_decodes,
            decode=SimpleNamespace(seq_lens=torch.tensor(totals[:num_decodes])) if num_decodes else None,
            prefill=SimpleNamespace(chunked_context=cached) if others else None,
        )
    }


@dataclass
class Request:
    """One request: what it was given, what it has in the cache, what it will answer."""

    number: int
    prompt: int
    answer: int
    cached_prefix: int = 0
    computed: int = 0
    answered: int = 0

    @property
    def remaining(self):
        return self.prompt + self.answered - self.computed


@dataclass
class Scheduler:
    """An engine's scheduler in small: chunks under a budget, blocks, the youngest preempted, the waiting shuffled."""

    max_tokens: int
    max_requests: int
    num_blocks: int
    block_size: int
    rng: random.Random
    waiting: list = field(default_factory=list)
    running: list = field(default_factory=list)
    started: set = field(default_factory=set)

    def _blocks(self, request, length):
        return -(-length // self.block_size)

    def _free(self):
        return self.num_blocks - 1 - sum(self._blocks(r, r.computed) for r in self.running)

    def step(self):
        """Run one step; return its rows as (context, length)."""
        budget, rows, preempted = self.max_tokens, [], False
        for request in list(self.running):
            if request not in self.running or budget == 0:
                continue
            length = min(request.remaining, budget)
            fits = True
            while self._needed(request, length) > self._free_beside(rows):
                victim = self.running.pop()
                preempted = True
                rows = [row for row in rows if row[0] is not victim]
                budget = self.max_tokens - sum(row[2] for row in rows)
                victim.computed = 0
                self.waiting.insert(0, victim)
                if victim is request:
                    fits = False
                    break
            if not fits:
                break
            rows.append((request, request.computed, length))
            budget -= length
        while not preempted and self.waiting and budget and len(self.running) < self.max_requests:
            place = self.rng.randrange(len(self.waiting)) if self.rng.random() < 0.3 else 0
            request = self.waiting[place]
            prefix = min(request.cached_prefix, request.prompt - 1) // self.block_size * self.block_size
            request.computed = prefix
            length = min(request.remaining, budget)
            if self._needed(request, length) + self._blocks(request, prefix) > self._free_beside(rows):
                request.computed = 0
                break
            self.waiting.pop(place)
            self.running.append(request)
            rows.append((request, prefix, length))
            budget -= length
            self.started.add(request.number)
        for request, _context, length in rows:
            request.computed += length
            if request.remaining == 0:
                request.answered += 1
                if request.answered == request.answer:
                    self.running.remove(request)
        return [(context, length) for _request, context, length in rows]

    def _needed(self, request, length):
        return self._blocks(request, request.computed + length) - self._blocks(request, request.computed)

    def _free_beside(self, rows):
        return self._free() - sum(self._needed(request, length) for request, _context, length in rows)
