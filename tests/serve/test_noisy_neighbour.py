"""A victim amid attackers in one step of vLLM: what each isolation keeps for it, by the running engine's scores."""

import random
from contextlib import contextmanager

import pytest

pytest.importorskip("vllm")
pytestmark = pytest.mark.serve

import torch  # noqa: E402

from evenmoe.routing import RoutingContext, TokenDrop  # noqa: E402
from tests.serve.in_process import llm, routing_of  # noqa: E402

VICTIM = "def read_lines(path):\n    with open(path) as handle:\n        return [line.rstrip() for line in handle]\n"
LINE = "        handle.write(line)\n"
GAMMA = 1.0
NUM_DRAWS = 8


@pytest.fixture(scope="module")
def engine(text_folder):
    """One engine for all policies: they are exchanged between steps."""
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": 4096, "max_model_len": 512}
    with llm(
        text_folder, {"routing": {"gamma": GAMMA}}, **whole_prompts, skip_tokenizer_init=False
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def victim(engine):
    return engine.get_tokenizer().encode(VICTIM)


@pytest.fixture(scope="module")
def attacker(engine):
    return engine.get_tokenizer().encode(LINE * 20)


@contextmanager
def policy_of(engine, isolation):
    """Exchange the policy, and collect the layers' steps meanwhile."""
    session = routing_of(engine).session
    before, steps = session.policy, []
    session.policy = TokenDrop(gamma=GAMMA, isolation=isolation)
    session.observers.append(steps.append)
    try:
        yield steps
    finally:
        session.observers.remove(steps.append)
        session.policy = before


def run(engine, isolation, attackers, victim, num_tokens=6):
    """The layers of the step that has all prompts, the victim's last, and what the victim is answered."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, prompt_logprobs=0)
    prompts = [{"prompt_token_ids": ids} for ids in [*attackers, victim]]
    with policy_of(engine, isolation) as steps:
        answer = engine.generate(prompts, sampling, use_tqdm=False)[-1]
        first = steps[: len(routing_of(engine).layer_names)]
    assert {len(step.scores_TE) for step in first} == {sum(map(len, [*attackers, victim]))}, "cut into steps"
    assert all(step.applied for step in first)
    scored = zip(victim[1:], answer.prompt_logprobs[1:], strict=True)
    return first, list(answer.outputs[0].token_ids), [table[token].logprob for token, table in scored]


def taken(steps, isolation, num_own):
    """Pairs that the request at the end would keep alone, with the same scores, and does not keep."""
    own, policy = slice(-num_own, None), TokenDrop(gamma=GAMMA, isolation=isolation)
    context = RoutingContext(request_of_token_T=torch.zeros(num_own, dtype=torch.long))
    return sum(
        int((policy.keep(step.scores_TE[own], step.chosen_TE[own], context) & ~step.kept_TE[own]).sum())
        for step in steps
    )


@pytest.mark.parametrize("isolation", ["batch", "request", "strict"])
def test_what_attackers_take(engine, victim, attacker, isolation):
    steps, _, _ = run(engine, isolation, [attacker] * 6, victim)
    assert (taken(steps, isolation, len(victim)) > 0) == (isolation == "batch")


@pytest.mark.parametrize("isolation", ["request", "strict"])
def test_nobody_takes_a_pair_from_an_isolated_request(engine, victim, isolation):
    rng = random.Random(0)
    for _ in range(NUM_DRAWS):
        alphabet = [rng.randrange(4096) for _ in range(rng.choice([1, 4, 64]))]
        sizes = [rng.randrange(1, 300) for _ in range(rng.randrange(1, 7))]
        attackers = [[rng.choice(alphabet) for _ in range(size)] for size in sizes]
        steps, _, _ = run(engine, isolation, attackers, victim, num_tokens=1)
        assert taken(steps, isolation, len(victim)) == 0


def test_strict_answers_as_if_alone(engine, victim, attacker):
    alone, answer_alone, logprobs_alone = run(engine, "strict", [], victim)
    amid, answer_amid, logprobs_amid = run(engine, "strict", [attacker] * 6, victim)
    for a, b in zip(alone, amid, strict=True):
        assert torch.equal(a.kept_TE, b.kept_TE[-len(victim) :])
    assert answer_amid == answer_alone
    assert logprobs_amid == pytest.approx(logprobs_alone, abs=1e-3)


def test_request_keeps_all_it_had_alone_and_may_be_lent_more(engine, victim, attacker):
    """In the first layer both runs have the same inputs; later ones may differ by what was lent."""
    alone, _, _ = run(engine, "request", [], victim)
    amid, _, _ = run(engine, "request", [attacker] * 6, victim)
    kept_amid = amid[0].kept_TE[-len(victim) :]
    assert not (alone[0].kept_TE & ~kept_amid).any()
    assert (kept_amid & ~alone[0].kept_TE).any()


def test_batch_lets_neighbours_change_the_answer(engine, victim, attacker):
    _, _, alone = run(engine, "batch", [], victim)
    _, _, amid = run(engine, "batch", [attacker] * 6, victim)
    assert amid != pytest.approx(alone, abs=0.1)


def test_a_cached_prefix_brings_its_first_senders_neighbourhood_along(text_folder):
    """Why isolation refuses prefix caching: keys and values were computed amid another request's tokens.

    `cache_salt` keeps tenants apart.
    """
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=1)

    def logprobs(engine, text, **prompt):
        (output,) = engine.generate([{"prompt": text, **prompt}], sampling, use_tqdm=False)
        tokens = output.outputs[0].token_ids
        told = [table[token].logprob for token, table in zip(tokens, output.outputs[0].logprobs, strict=True)]
        return told, output.num_cached_tokens

    shared = "You are the assistant of a library. Answer in one short sentence. " * 8
    cached = {"enable_prefix_caching": True, "max_model_len": 512, "skip_tokenizer_init": False}
    with llm(text_folder, {"routing": {"gamma": GAMMA}}, **cached) as engine:
        alone, num_cached = logprobs(engine, shared + VICTIM)
        assert num_cached == 0
        engine.reset_prefix_cache()
        logprobs(engine, shared + LINE * 20)
        salted, num_cached = logprobs(engine, shared + VICTIM, cache_salt="victim")
        assert num_cached == 0
        assert salted == pytest.approx(alone, abs=1e-3)
        poisoned, num_cached = logprobs(engine, shared + VICTIM)
        assert num_cached > 0
        assert poisoned != pytest.approx(alone, abs=1e-2)
