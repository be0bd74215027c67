"""Recorded runs for the tests of predictors: prompts of token ids with the experts that each token was given."""

import numpy as np
from hypothesis import strategies as st

from evenmoe.scheduling.predictors import RecordedPrompts, TokenCounter


@st.composite
def runs(draw, most_ids=7, most_prompts=3):
    """(prompts, chosen, L, E, K): `chosen[prompt][token][layer]` is a set of K experts."""
    num_layers, num_experts = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    top_k = draw(st.integers(1, num_experts))
    ids = st.integers(0, most_ids)
    prompts = draw(st.lists(st.lists(ids, min_size=1, max_size=6), min_size=1, max_size=most_prompts))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = [
        [[set(rng.permutation(num_experts)[:top_k].tolist()) for _ in range(num_layers)] for _ in ids_T]
        for ids_T in prompts
    ]
    return prompts, chosen, num_layers, num_experts, top_k


def count(prompts, chosen, num_layers, num_experts, top_k):
    """The counts of a run."""
    counter = TokenCounter(num_layers, num_experts, top_k)
    for ids_T, choices in zip(prompts, chosen, strict=True):
        counter.add_seen(ids_T)
        for layer in range(num_layers):
            chosen_TE = [[expert in of[layer] for expert in range(num_experts)] for of in choices]
            counter.add(layer, ids_T, chosen_TE)
    return counter.counts()


def topical(seed, num_prompts=60, length=64, num_experts=8, top_k=2):
    """Prompts whose tokens' experts depend on the prompt's topic as well: what a calibration can repair.

    Ids 0..19 and 20..39 are the topics' own, 40..59 are common, and go to the experts of the topic.
    """
    rng = np.random.default_rng(seed)
    own = rng.permutation(num_experts)
    prompts, loads, counter = [], [], TokenCounter(1, num_experts, top_k)
    for number in range(num_prompts):
        topic = number % 2
        is_common_T = rng.random(length) < 0.5
        ids_T = np.where(
            is_common_T, rng.integers(40, 60, length), rng.integers(20, size=length) + 20 * topic
        )
        chosen_TE = np.zeros((length, num_experts), dtype=bool)
        for token in range(length):
            half = own[4 * topic : 4 * topic + 4]
            chosen_TE[token, rng.choice(half, top_k, replace=False)] = True
        counter.add_seen(ids_T)
        counter.add(0, ids_T, chosen_TE)
        prompts.append(ids_T)
        loads.append(chosen_TE.sum(0)[None])
    return RecordedPrompts(prompts=tuple(prompts), load_NLE=np.array(loads), counts=counter.counts())
