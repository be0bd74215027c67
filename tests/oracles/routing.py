"""Slow, obvious versions of the routing policies: plain lists, plain loops, one pair at a time.

Written from the method, not from the fast code, and sharing nothing with it but the context's fields. A policy's
oracle returns the set of (token, expert) pairs that run.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

from evenmoe.routing import RoutingContext

Pair = tuple[int, int]


class Batch:
    """One call's inputs as Python lists, and the questions the oracles ask about them."""

    def __init__(self, scores, chosen, ctx: RoutingContext) -> None:
        self.scores = scores.double().tolist()
        self.chosen = chosen.tolist()
        self.num_experts = scores.shape[1]
        real = [True] * len(self.scores) if ctx.real_T is None else ctx.real_T.tolist()
        self.tokens = [t for t, is_real in enumerate(real) if is_real]
        self.seed = ctx.seed
        self.position = {token: place for place, token in enumerate(self.tokens)}
        self.sources = self.given(ctx.device_of_token_T, self.spread(ctx.num_devices))
        owners = self.given(ctx.device_of_expert_E, shares(self.num_experts, ctx.num_devices))
        self.holders = [[owner] for owner in owners]
        if ctx.holds_DE is not None:
            held = ctx.holds_DE.tolist()
            self.holders = [
                [d for d in range(ctx.num_devices) if held[d][e]] for e in range(self.num_experts)
            ]
        self.num_devices = ctx.num_devices
        self.requests = self.given(ctx.request_of_token_T, [])
        self.images = self.given(ctx.image_T, [])

    @staticmethod
    def given(value, otherwise: list) -> list:
        return otherwise if value is None else value.tolist()

    def spread(self, num_devices: int) -> list:
        """The source of each row when only the real tokens are shared out; padding has none."""
        shared = shares(len(self.tokens), num_devices)
        return [shared[self.position[t]] if t in self.position else None for t in range(len(self.scores))]

    def top_k(self, token: int) -> list[int]:
        return [e for e in range(self.num_experts) if self.chosen[token][e]]

    def local(self, token: int) -> list[int]:
        return [e for e in range(self.num_experts) if self.sources[token] in self.holders[e]]

    def runs_on(self, token: int, expert: int) -> int:
        """The device of the copy that a token gets: its own, or its device's tokens take the copies in turn."""
        holders, source = self.holders[expert], self.sources[token]
        if source in holders:
            return source
        return holders[self.number(token) % len(holders)]

    def number(self, token: int) -> int:
        """How many earlier real tokens are on the same device."""
        return sum(1 for t in self.tokens if t < token and self.sources[t] == self.sources[token])


def shares(n: int, parts: int) -> list[int]:
    """The part of each of n items: n mod parts parts of one more item come first."""
    sizes = [n // parts + (1 if part < n % parts else 0) for part in range(parts)]
    return [part for part, size in enumerate(sizes) for _ in range(size)]


@functools.cache
def limit(gamma: float, num_pairs: int, num_tokens: int, num_copies: int, copies_in_bin: int) -> int:
    """The pairs a bin takes: its share of the group's pairs times gamma, rounded up."""
    most = num_tokens * copies_in_bin
    if math.isinf(gamma):
        return most
    exact = Fraction(f"{gamma:.12g}")
    return min(max(1, math.ceil(exact * num_pairs * copies_in_bin / num_copies)), most)


class Competition:
    """Groups, bins and limits of a capacity policy, one pair at a time."""

    def __init__(self, batch: Batch, policy) -> None:
        self.batch, self.policy = batch, policy
        self.groups: dict[tuple, list[int]] = {}
        for token in batch.tokens:
            self.groups.setdefault(self.group(token), []).append(token)
        self.limits = {
            (group, bin): self.limit(group, bin)
            for group in self.groups
            for bin in range(batch.num_experts if policy.level == "expert" else batch.num_devices)
        }

    def group(self, token: int) -> tuple:
        source = self.batch.sources[token] if self.policy.scope == "local" else 0
        return (source,) if self.policy.isolation == "batch" else (source, self.batch.requests[token])

    def bin(self, pair: Pair) -> int:
        return pair[1] if self.policy.level == "expert" else self.batch.runs_on(*pair)

    def limit(self, group: tuple, bin: int) -> int:
        tokens = self.groups[group]
        num_pairs = sum(len(self.batch.top_k(token)) for token in tokens)
        copies = [(e, d) for e, holders in enumerate(self.batch.holders) for d in holders]
        in_bin = sum(1 for e, d in copies if (e if self.policy.level == "expert" else d) == bin)
        return limit(self.policy.gamma, num_pairs, len(tokens), len(copies), in_bin)

    def load(self, kept: set[Pair], group: tuple, bin: int) -> int:
        return sum(1 for pair in kept if self.group(pair[0]) == group and self.bin(pair) == bin)

    def order(self, pair: Pair, keep: str) -> tuple:
        """Sorting by this puts the pair that is kept first in front."""
        token, expert = pair
        last = False
        if self.policy.modality != "uniform":
            last = self.batch.images[token] == (self.policy.modality == "image-first")
        position = self.batch.position[token]
        rank = {
            "score": -self.batch.scores[token][expert],
            "first": position,
            "last": -position,
            "random": self.drawn(pair) if keep == "random" else None,
        }[keep]
        return (last, rank, token, expert)

    def drawn(self, pair: Pair) -> int:
        token, expert = pair
        unit = self.batch.tokens
        if self.policy.isolation == "batch" and self.policy.scope == "local":
            unit = [t for t in unit if self.batch.sources[t] == self.batch.sources[token]]
        elif self.policy.isolation != "batch":
            unit = [t for t in unit if self.batch.requests[t] == self.batch.requests[token]]
        scores = self.batch.scores[token]
        place = sorted(self.batch.top_k(token), key=lambda e: (-scores[e], e)).index(expert)
        return drawn(self.batch.seed, unit.index(token), place)

    def best(self, candidates: list[Pair], keep: str) -> set[Pair]:
        """Each bin keeps its best candidates; isolation="request" then lends what is unused."""
        kept: set[Pair] = set()
        load = dict.fromkeys(self.limits, 0)
        for pair in sorted(candidates, key=lambda pair: self.order(pair, keep)):
            place = (self.group(pair[0]), self.bin(pair))
            if load[place] < self.limits[place]:
                load[place] += 1
                kept.add(pair)
        if self.policy.isolation == "request":
            room = self.room_to_lend(kept)
            for pair in sorted(set(candidates) - kept, key=lambda pair: self.order(pair, keep)):
                place = (self.group(pair[0])[0], self.bin(pair))
                if room[place] > 0:
                    room[place] -= 1
                    kept.add(pair)
        return kept

    def room_to_lend(self, kept: set[Pair]) -> dict[tuple[int, int], int]:
        room: dict[tuple[int, int], int] = {}
        for group in self.groups:
            for bin in {bin for _, bin in self.limits}:
                place = (group[0], bin)
                room[place] = room.get(place, 0) + self.limits[group, bin] - self.load(kept, group, bin)
        return room


def drawn(seed: int, position: int, place: int) -> int:
    """keep="random": a 32-bit hash of the seed, the token's position in its unit, and the pair's place in its token."""

    def mixed(value: int) -> int:
        value &= 0xFFFFFFFF
        value = ((value ^ (value >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        value = ((value ^ (value >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return value ^ (value >> 16)

    wide = seed % 2**64
    wide = ((wide ^ (wide >> 32)) * 0xD6E8FEB86659FD93) % 2**64
    mixed_seed = (wide ^ (wide >> 32)) & 0xFFFFFFFF
    return mixed(mixed(position + mixed_seed) ^ place)


def baseline(policy, scores, chosen, ctx) -> set[Pair]:
    batch = Batch(scores, chosen, ctx)
    return {(t, e) for t in batch.tokens for e in batch.top_k(t)}


def token_drop(policy, scores, chosen, ctx) -> set[Pair]:
    batch = Batch(scores, chosen, ctx)
    candidates = [(t, e) for t in batch.tokens for e in batch.top_k(t)]
    return Competition(batch, policy).best(candidates, policy.options()["keep"])


def expanded_drop(policy, scores, chosen, ctx) -> set[Pair]:
    batch = Batch(scores, chosen, ctx)
    candidates = {(t, e) for t in batch.tokens for e in batch.top_k(t) + batch.local(t)}
    return Competition(batch, policy).best(sorted(candidates), "score")


def fill(policy, scores, chosen, ctx) -> set[Pair]:
    batch = Batch(scores, chosen, ctx)
    competition = Competition(batch, policy)
    top_k = {(t, e) for t in batch.tokens for e in batch.top_k(t)}
    outside = {(t, e) for t in batch.tokens for e in batch.local(t)} - top_k

    def in_order(pairs: set[Pair]) -> list[Pair]:
        return sorted(pairs, key=lambda pair: competition.order(pair, "score"))

    def owes(token: int, kept: set[Pair]) -> bool:
        return sum(1 for t, _ in kept if t == token) < len(batch.top_k(token))

    def has_own_room(pair: Pair, kept: set[Pair]) -> bool:
        group, bin = competition.group(pair[0]), competition.bin(pair)
        return competition.load(kept, group, bin) < competition.limits[group, bin]

    kept: set[Pair] = set()
    for pair in in_order(top_k):
        if has_own_room(pair, kept):
            kept.add(pair)
    for pair in in_order(outside):
        if has_own_room(pair, kept) and owes(pair[0], kept):
            kept.add(pair)
    if policy.isolation == "request":
        for wanted in (top_k, outside):
            room = competition.room_to_lend(kept)
            for pair in in_order(wanted - kept):
                place = (competition.group(pair[0])[0], competition.bin(pair))
                if room[place] > 0 and owes(pair[0], kept):
                    room[place] -= 1
                    kept.add(pair)
    return kept


def expert_drop(policy, scores, chosen, ctx) -> set[Pair]:
    batch = Batch(scores, chosen, ctx)
    groups: dict[tuple, list[int]] = {}
    for t in batch.tokens:
        source = batch.sources[t] if policy.scope == "local" else 0
        request = batch.requests[t] if policy.isolation != "batch" else 0
        groups.setdefault((source, request), []).append(t)
    num_skipped = max(1, round(Fraction(f"{policy.fraction:.12g}") * batch.num_experts))
    kept: set[Pair] = set()
    for tokens in groups.values():
        load = [sum(batch.chosen[t][e] for t in tokens) for e in range(batch.num_experts)]
        skipped = sorted(range(batch.num_experts), key=lambda e: (load[e], e))[:num_skipped]
        kept |= {(t, e) for t in tokens for e in batch.top_k(t) if e not in skipped}
    return kept


def threshold_drop(policy, scores, chosen, ctx) -> set[Pair]:
    batch = Batch(scores, chosen, ctx)
    kept: set[Pair] = set()
    for t in batch.tokens:
        total = sum(batch.scores[t][e] for e in batch.top_k(t))
        kept |= {(t, e) for e in batch.top_k(t) if batch.scores[t][e] >= policy.threshold * total}
    return kept


ORACLES = {
    "baseline": baseline,
    "token_drop": token_drop,
    "expanded_drop": expanded_drop,
    "fill": fill,
    "expert_drop": expert_drop,
    "threshold_drop": threshold_drop,
}


def oracle_keep(policy, scores, chosen, ctx) -> set[Pair]:
    """The pairs that `policy.keep` must keep."""
    return ORACLES[policy.name](policy, scores, chosen, ctx)
