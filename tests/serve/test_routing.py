"""Routing inside vLLM: nothing changes with gamma = inf, policies do what they say, and steps are counted exactly."""

import math
import random
from itertools import chain

import pytest

pytest.importorskip("vllm")
pytestmark = pytest.mark.serve

from tests.serve.conftest import TINY  # noqa: E402
from tests.serve.in_process import answers, llm, routing_of  # noqa: E402


def prompts_of(num=6, seed=0, low=5, high=40, vocab=100):
    rng = random.Random(seed)
    return [[rng.randrange(10, vocab) for _ in range(rng.randint(low, high))] for _ in range(num)]


@pytest.mark.parametrize("architecture", TINY)
def test_without_a_limit_tokens_are_those_of_stock_vllm(architecture, tiny_folder):
    folder, prompts = tiny_folder(architecture), prompts_of()
    with llm(folder) as stock:
        assert routing_of(stock) is None
        expected = answers(stock, prompts)
    with llm(folder, {}) as ours:
        assert answers(ours, prompts) == expected
        loads = routing_of(ours).loads
    asked = sum(len(prompt) for prompt in prompts) + len(prompts) * 7
    assert loads.total.tokens_L.tolist() == [asked] * 2
    assert loads.total.before_LE.sum(1).tolist() == [asked * 2] * 2


def test_the_bundled_model_without_a_limit(text_folder):
    prompts = prompts_of(12, seed=1, low=1, high=60, vocab=4000)
    with llm(text_folder) as stock:
        expected = answers(stock, prompts, 12)
    with llm(text_folder, {}) as ours:
        assert answers(ours, prompts, 12) == expected


POLICIES = [
    {"gamma": 0.5},
    {"gamma": 1.0, "options": {"keep": "random"}},
    {"gamma": 1.0, "options": {"level": "device", "scope": "global"}},
    {"gamma": 1.0, "options": {"isolation": "strict"}},
    {"policy": "fill", "gamma": 1.0},
    {"policy": "expanded_drop", "gamma": 1.0},
    {"policy": "expert_drop"},
    {"policy": "threshold_drop", "options": {"threshold": 0.3}},
    {"policy": "baseline"},
]


@pytest.mark.parametrize("architecture", ["qwen2_moe", "mixtral"])
def test_every_policy_keeps_what_it_keeps_on_the_same_model_in_transformers(architecture, tiny_folder):
    """Loads of a step of prompts, before and after, by layer and expert: with shared experts, and renormalising."""
    import numpy as np

    folder, prompts = tiny_folder(architecture), prompts_of(5, seed=3)
    with llm(folder, {}, enable_chunked_prefill=False) as ours:
        engine = routing_of(ours)
        for routing in POLICIES:
            restarted(engine, {"num_devices": 2, **routing})
            answers(ours, prompts, 1)
            expected = loads_in_transformers(folder, engine.session.policy, prompts)
            for name in ("before_LE", "after_LE", "tokens_without_expert_L"):
                np.testing.assert_array_equal(
                    getattr(engine.loads.total, name), getattr(expected, name), err_msg=f"{routing} {name}"
                )
            limited = routing.get("policy") != "baseline"
            assert (engine.loads.total.before_LE != engine.loads.total.after_LE).any() == limited, routing


@pytest.mark.parametrize("keep", ["score", "random"])
def test_experts_of_grouped_routing_take_as_many_as_their_capacity(tiny_folder, keep):
    """vLLM's DeepSeek-V2 does not compute quite what transformers' does: its own loads are the oracle."""
    import numpy as np

    prompts = prompts_of(5, seed=3)
    with llm(tiny_folder("deepseek_v2"), {}) as ours:
        engine = routing_of(ours)
        restarted(engine, {"gamma": 0.75, "options": {"keep": keep}})
        answers(ours, prompts, 1)
        total = engine.loads.total
    room = math.ceil(0.75 * sum(map(len, prompts)) * 2 / 8)
    np.testing.assert_array_equal(total.after_LE, np.minimum(total.before_LE, room))
    assert (total.before_LE > room).any()


def restarted(engine, routing):
    """Give an engine another configuration, as if it had been started with it."""
    from evenmoe.serving.config import serving_config_of

    engine.config = serving_config_of({"routing": routing})
    engine.__dict__.update(_session=None, _passed=None, _layers={}, _context=None)
    engine.start()


def loads_in_transformers(folder, policy, prompts):
    """The loads of `attach` for the same requests packed into one call."""
    import torch
    from transformers import AutoModelForCausalLM

    import evenmoe

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lengths = torch.tensor([0, *(len(prompt) for prompt in prompts)])
    with evenmoe.attach(model, policy, num_devices=2) as attached, torch.inference_mode():
        model(
            input_ids=torch.tensor([list(chain.from_iterable(prompts))]),
            position_ids=torch.cat([torch.arange(length) for length in lengths[1:]])[None],
            cu_seq_lens_q=lengths.cumsum(0).int(),
            use_cache=False,
        )
    return attached.loads.total


def test_steps_are_counted_exactly_as_the_scheduler_hands_them_out(tiny_folder, monkeypatch, tmp_path):
    """Chunks of prompts, cached prefixes, prompts and new tokens in one step, preemption; each step's sum is right."""
    from evenmoe.serving.observation.loads_file import read_loads_snapshot
    from evenmoe.serving.observation.spool import ENVIRONMENT, Spool

    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    metrics = {"least_requests": 1, "per_request_loads": True, "interval_s": 1e-9}
    options = {
        "enable_prefix_caching": True,
        "max_num_batched_tokens": 48,
        "max_num_seqs": 6,
        "block_size": 32,
        "num_gpu_blocks_override": 14,
        "max_model_len": 160,
    }
    shared = prompts_of(1, seed=8, low=64, high=64)[0]
    prompts = [shared + prompt for prompt in prompts_of(4, seed=9)] + prompts_of(8, seed=10, low=1, high=90)
    with llm(tiny_folder("olmoe"), {"metrics": metrics}, **options) as ours:
        assert read_loads_snapshot(Spool(tmp_path)).num_tokens == 0
        scheduler = ours.llm_engine.engine_core.engine_core.scheduler
        steps = watched(scheduler)
        engine = routing_of(ours)
        answers(ours, prompts, 24)
        rows = read_rows(tmp_path)
        snapshot = read_loads_snapshot(Spool(tmp_path))
    scheduled = [step.total_num_scheduled_tokens for step in steps if step.total_num_scheduled_tokens]
    by_step = {}
    for row in rows:
        by_step[row.step] = by_step.get(row.step, 0) + row.tokens
    assert list(by_step.values()) == scheduled
    boundaries = {sum(scheduled[:end]) for end in range(len(scheduled) + 1)}
    assert snapshot.num_tokens in boundaries
    assert engine.loads.total.tokens_L.tolist() == [sum(scheduled)] * 2
    assert 0 < snapshot.num_requests <= len(prompts)
    assert any(len({row.phase for row in rows if row.step == step}) == 2 for step in by_step), "no mixed step"
    assert any(step.scheduled_cached_reqs.resumed_req_ids for step in steps), "nothing was preempted"
    assert any(request.num_computed_tokens for step in steps for request in step.scheduled_new_reqs), (
        "no prefix"
    )


def watched(scheduler):
    """Collect what the scheduler hands out."""
    steps, schedule = [], scheduler.schedule

    def noted(*args, **kwargs):
        steps.append(schedule(*args, **kwargs))
        return steps[-1]

    scheduler.schedule = noted
    return steps


def read_rows(folder):
    from evenmoe.serving.vllm.request_log import NAME, read_request_log

    return read_request_log(folder / NAME)


@pytest.mark.parametrize("phases", ["prefill", "decode"])
def test_phases_of_mixed_steps(tiny_folder, monkeypatch, tmp_path, phases):
    from evenmoe.serving.observation.spool import ENVIRONMENT

    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    metrics = {"least_requests": 1, "per_request_loads": True}
    routing = {"gamma": 0.25, "phases": phases}
    options = {"max_num_batched_tokens": 40, "max_num_seqs": 8}
    with llm(tiny_folder("olmoe"), {"routing": routing, "metrics": metrics}, **options) as ours:
        answers(ours, prompts_of(16, seed=2), 12)
    lost = {"prefill": 0, "decode": 0}
    for row in read_rows(tmp_path):
        for chosen, kept in zip(row.chosen, row.kept, strict=True):
            lost[row.phase] += sum(map(len, chosen)) - sum(map(len, kept))
    other = {"prefill": "decode", "decode": "prefill"}[phases]
    assert lost[phases] > 0
    assert lost[other] == 0


def test_compiled_steps_route_as_eager_ones(tiny_folder):
    """The policy is out of the compiler's sight: same tokens, same pairs dropped."""
    evenmoe = {"routing": {"gamma": 0.5, "phases": "both"}}
    prompts, folder = prompts_of(6, seed=4), tiny_folder("olmoe")
    with llm(folder, evenmoe) as ours:
        expected, loads = answers(ours, prompts), routing_of(ours).loads
    with llm(folder, evenmoe, enforce_eager=False) as ours:
        assert answers(ours, prompts) == expected
        compiled = routing_of(ours).loads
    assert compiled.total.after_LE.tolist() == loads.total.after_LE.tolist()
    assert compiled.total.tokens_L.tolist() == loads.total.tokens_L.tolist()
    assert loads.drop_rate > 0.1
