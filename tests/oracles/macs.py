"""The slow, obvious version of MACS: plain lists, plain loops, one pair at a time.

Weights and capacities are whole numbers of 1 / 65536 of a token, as in the policy; the rest is written from the method.
"""

from __future__ import annotations

import math

from tests.oracles.routing import Batch, Competition, Pair, limit

UNIT = 65536


class MacsCompetition(Competition):
    """Groups, bins, weights and weighted limits, one pair at a time."""

    def __init__(self, batch: Batch, policy, entropy: list[float], modality: list[int]) -> None:
        self.batch, self.policy = batch, policy
        self.entropy, self.modality = entropy, modality
        self.groups: dict[tuple, list[int]] = {}
        for token in batch.tokens:
            self.groups.setdefault(self.group(token), []).append(token)
        self.weight: dict[int, int] = {}
        for tokens in self.groups.values():
            self.weight |= self.weights(tokens)
        bins = range(batch.num_experts if policy.level == "expert" else batch.num_devices)
        self.limits = {(group, bin): self.limit(group, bin) for group in self.groups for bin in bins}

    def weights(self, tokens: list[int]) -> dict[int, int]:
        """Text weighs 1; an image token 1 / (1 + exp(delta * z))."""
        images = [t for t in tokens if self.batch.images[t]]
        among = images if self.policy.normalise == "images" else tokens
        values = [self.entropy[t] for t in among] or [0.0]
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values) + 1e-12)
        weights = dict.fromkeys(tokens, UNIT)
        for t in images:
            z = (self.entropy[t] - mean) / deviation
            weights[t] = max(1, round(UNIT / (1 + math.exp(self.policy.delta * z))))
        return weights

    def limit(self, group: tuple, bin: int) -> int:
        policy, tokens = self.policy, self.groups[group]
        pairs = sum(len(self.batch.top_k(token)) for token in tokens)
        if policy.capacity_from == "weight":
            pairs = math.ceil(sum(len(self.batch.top_k(t)) * self.weight[t] for t in tokens) / UNIT)
        copies = [(e, d) for e, holders in enumerate(self.batch.holders) for d in holders]
        inside = [e for e, d in copies if (e if policy.level == "expert" else d) == bin]
        capacity = float(limit(policy.gamma, pairs, len(tokens), len(copies), len(inside)))
        if policy.rho > 0:
            visual = sum(self.weight[t] for t in tokens if self.batch.images[t])
            share = visual / sum(self.weight[t] for t in tokens)
            modality = sum(self.modality[e] for e in inside) / max(len(inside), 1)
            capacity *= 1 + policy.rho * modality * (share - 0.5)
        units = round(capacity * UNIT)
        if policy.rounding == "up":
            units = math.ceil(units / UNIT) * UNIT
        if policy.rounding == "down":
            units = math.floor(units / UNIT) * UNIT
        return max(units, UNIT)

    def place(self, pair: Pair) -> tuple:
        return (self.group(pair[0]), self.bin(pair))

    def rank(self, pair: Pair) -> tuple:
        score = self.batch.scores[pair[0]][pair[1]]
        if self.policy.rank_by == "weighted":
            score *= self.weight[pair[0]] / UNIT
        return (-score, *pair)

    def best_pairs(self, candidates: list[Pair]) -> set[Pair]:
        """Each bin keeps its best until one does not fit; isolation="request" then lends what is unused."""
        kept = self.filled(candidates, dict(self.limits), self.place)
        if self.policy.isolation != "request":
            return kept
        room = {(group[0], bin): 0 for group, bin in self.limits}
        for (group, bin), most in self.limits.items():
            room[group[0], bin] += most - self.load_of(kept, (group, bin))
        return kept | self.filled(
            sorted(set(candidates) - kept), room, lambda p: (self.group(p[0])[0], self.bin(p))
        )

    def filled(self, candidates: list[Pair], room: dict[tuple, int], place) -> set[Pair]:
        kept: set[Pair] = set()
        closed: set[tuple] = set()
        for pair in sorted(candidates, key=self.rank):
            where, weight = place(pair), self.weight[pair[0]]
            fits = weight <= room[where] if self.policy.edge == "within" else room[where] > 0
            if where in closed or not fits:
                closed.add(where)
                continue
            room[where] -= weight
            kept.add(pair)
        return kept

    def load_of(self, kept: set[Pair], place: tuple) -> int:
        return sum(self.weight[pair[0]] for pair in kept if self.place(pair) == place)


def competition(policy, scores, chosen, ctx) -> MacsCompetition:
    modality = [0] * scores.shape[1] if ctx.modality_E is None else ctx.modality_E.tolist()
    return MacsCompetition(Batch(scores, chosen, ctx), policy, ctx.entropy_T.double().tolist(), modality)


def macs(policy, scores, chosen, ctx) -> set[Pair]:
    """The pairs that MACS keeps."""
    found = competition(policy, scores, chosen, ctx)
    return found.best_pairs([(t, e) for t in found.batch.tokens for e in found.batch.top_k(t)])
