"""A made-up machine for live runs: a clock that only the engine and waiting move, and prompts of a few tokens."""

import numpy as np

from evenmoe.live.prompts import Prompts
from evenmoe.placement import Placement

NUM_LAYERS, NUM_EXPERTS, TOP_K, DEVICES = 2, 4, 2, 2
PLACEMENT = Placement.of([[0, 0, 1, 1]] * NUM_LAYERS, DEVICES)


class StepClock:
    """Time that passes only where somebody waits or works."""

    def __init__(self):
        self.time_s = 0.0

    def now_s(self):
        return self.time_s

    def sleep_until(self, at_s):
        self.time_s = max(self.time_s, at_s)


class FormulaEngine:
    """Takes fixed_s + per_token_s * tokens, padding included, and uses the experts that the tokens' ids say."""

    def __init__(self, clock, fixed_s=0.01, per_token_s=0.001, interrupt_at=None):
        self.clock, self.fixed_s, self.per_token_s = clock, fixed_s, per_token_s
        self.interrupt_at, self.batches = interrupt_at, []

    def run(self, ids_B):
        if len(self.batches) == self.interrupt_at:
            raise KeyboardInterrupt
        self.batches.append([ids.tolist() for ids in ids_B])
        self.clock.time_s += self.fixed_s + self.per_token_s * len(ids_B) * max(map(len, ids_B))
        return np.array([true_load(ids) for ids in ids_B])


def true_load(ids_T):
    """[L, E]: token id t uses experts t and t + 1 of the four, in every layer."""
    load_E = np.zeros(NUM_EXPERTS, dtype=np.int64)
    for token in ids_T.tolist():
        load_E[[token % 4, (token + 1) % 4]] += 1
    return np.stack([load_E] * NUM_LAYERS)


class Oracle:
    """Predicts the true load."""

    def predict(self, ids_T):
        return true_load(np.asarray(ids_T)).astype(float)


def prompts(rng, topics=3, each=12, tokens=(3, 9)):
    """Topic g's prompts hold mostly token g."""
    by_topic = {}
    for topic in range(topics):
        lengths = rng.integers(*tokens, size=each)
        by_topic[f"t{topic}"] = tuple(
            np.where(rng.random(length) < 0.9, topic, rng.integers(0, 4, size=length)).astype(np.int64)
            for length in lengths
        )
    return Prompts(by_topic=by_topic)
