"""Workloads and machines that are easy to follow by hand, for the tests of the simulator."""

import numpy as np

from evenmoe.simulation import Request, StepCost


class Listed:
    """A workload of listed requests: (arrived_s, prompt tokens, output tokens, load per token [L, E])."""

    topics = ("only",)

    def __init__(self, rows, num_layers=1, num_experts=4, top_k=2.0):
        self.rows, self.num_layers, self.num_experts, self.top_k = rows, num_layers, num_experts, top_k

    def requests(self, seed):
        for number, (arrived_s, prompt, output, load) in enumerate(self.rows):
            load_X = np.asarray(load, dtype=np.float64).reshape(-1)
            yield Request(number, float(arrived_s), prompt, output, 0, load_X, load_X)


class Steady:
    """Poisson arrivals of requests that are all alike but for their number; it never ends."""

    topics, num_layers, num_experts, top_k = ("only",), 1, 2, 1.0

    def __init__(self, rate_per_s, prompt_tokens=1, output_tokens=1):
        self.rate_per_s, self.tokens = rate_per_s, (prompt_tokens, output_tokens)
        self.load_X = np.array([0.5, 0.5])

    def requests(self, seed):
        rng = np.random.default_rng([seed, 1])
        number, now_s = 0, 0.0
        while True:
            for gap_s in rng.exponential(1 / self.rate_per_s, 1024).tolist():
                now_s += gap_s
                yield Request(number, now_s, *self.tokens, 0, self.load_X, self.load_X)
                number += 1


class Serves:
    """A machine that takes `service_s(first request's number)` for any batch, and remembers what it was given."""

    num_view_layers = 1

    def __init__(self, service_s):
        self.service_s = service_s
        self.batches = []

    def view(self, request):
        return request.predicted_X

    def batch(self, requests):
        self.batches.append([request.number for request in requests])
        seconds = self.service_s(requests[0].number)
        last_B = np.full(len(requests), seconds)
        return cost_of(seconds), last_B / 2, last_B

    def step(self, requests, tokens_B):
        self.batches.append([(request.number, int(n)) for request, n in zip(requests, tokens_B, strict=True)])
        return cost_of(self.service_s(requests[0].number))


def cost_of(seconds):
    return StepCost(
        seconds=seconds,
        busy_share=1.0,
        imbalance=1.0,
        straggler_factor=1.0,
        pairs=1.0,
        dropped_pairs=0.0,
    )
