"""generate_batch with evenmoe in it: the same tokens where nothing is limited, isolation where it is, and refusals."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import CompileConfig, ContinuousBatchingConfig, GenerationConfig

import evenmoe
from evenmoe.errors import AttachError, ConfigError
from evenmoe.models.prediction.learning import ChoiceListener
from evenmoe.models.tiny import tiny_model
from evenmoe.routing import Baseline
from evenmoe.scheduling.predictors import TokenPrior
from evenmoe.serving.config import serving_config_of
from evenmoe.serving.transformers import EngineError, ServingSession, configured, generate_batch
from tests.models.attach_reference import ids_of

GENERATION = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=1)
BATCHING = ContinuousBatchingConfig(
    num_blocks=64,
    page_size=16,
    max_batch_tokens=64,
    max_requests_per_batch=3,
    allow_block_sharing=False,
    return_logprobs=True,
    seed=0,
)


@pytest.fixture(scope="module")
def plain(text_model, prompts):
    """The new tokens of each prompt alone, by `generate`."""
    return [
        text_model.generate(torch.tensor([ids]), generation_config=GENERATION)[0][len(ids) :].tolist()
        for ids in prompts
    ]


@pytest.fixture(scope="module")
def prior(text_model, prompts, tmp_path_factory):
    with torch.no_grad(), evenmoe.attach(text_model, Baseline()) as attached:
        listener = ChoiceListener(attached)
        with attached.observed(listener):
            for ids in prompts:
                text_model(torch.tensor([ids]))
    return str(TokenPrior(counts=listener.counts()).save(tmp_path_factory.mktemp("prior") / "prior.npz"))


def run(model, prompts, body, batching=BATCHING, **generation):
    return generate_batch(
        model,
        prompts,
        serving_config_of(body),
        generation_config=GenerationConfig(**GENERATION.to_diff_dict() | generation),
        continuous_batching_config=copy.copy(batching),
    )


def first_logprobs(model, prompts, body):
    """Of each prompt's first new token, which the prompt's routing alone decides."""
    return np.array([output.logprobs[0] for output in run(model, prompts, body, max_new_tokens=1).outputs])


@pytest.mark.parametrize("strategy", ["fcfs", "greedy_variance", "random"])
def test_without_a_limit_the_tokens_are_those_of_generate(text_model, prompts, plain, prior, strategy):
    scheduling = {"strategy": strategy, "predictor": "token-prior", "prior": prior}
    generated = run(text_model, prompts, {"scheduling": scheduling})
    assert generated.tokens == plain
    tokens = sum(len(ids) + 6 - 1 for ids in prompts)
    assert generated.loads.total.tokens_L.tolist() == [tokens] * 4
    assert (generated.loads.total.before_LE.sum(-1) == 4 * tokens).all()
    assert np.array_equal(generated.loads.total.before_LE, generated.loads.total.after_LE)
    assert generated.scheduling.num_admitted == len(prompts)
    with evenmoe.attach(text_model, Baseline()):
        pass  # nothing is left on the model


@pytest.mark.parametrize("name", ["qwen2_moe", "mixtral", "qwen3_moe"])
def test_other_architectures_too(name):
    model = tiny_model(name)
    prompts = [ids_of(1, length, seed=length)[0].tolist() for length in (12, 20)]
    generated = run(model, prompts, {}, max_new_tokens=3)
    for ids, new in zip(prompts, generated.tokens, strict=True):
        config = GenerationConfig(**GENERATION.to_diff_dict() | {"max_new_tokens": 3})
        alone = model.generate(torch.tensor([ids]), generation_config=config)[0]
        assert new == alone[len(ids) :].tolist()
    assert run(model, prompts, {"routing": {"gamma": 0.5}}, max_new_tokens=1).loads.drop_rate > 0.1


def test_the_scheduler_alone_is_asked_for_by_its_type(text_model, prompts, plain):
    batching = dataclasses.replace(BATCHING, scheduler_type="evenmoe")
    with configured(serving_config_of({})) as settings:
        outputs = text_model.generate_batch(
            prompts, generation_config=GENERATION, continuous_batching_config=batching
        )
    assert [output.generated_tokens for output in outputs.values()] == plain
    assert settings.scheduler.snapshot().num_admitted == len(prompts)
    with pytest.raises(ConfigError, match="configured"):
        text_model.generate_batch(prompts, generation_config=GENERATION, continuous_batching_config=batching)


def test_isolated_requests_do_not_depend_on_their_neighbours(text_model, prompts):
    def alone_and_together(isolation):
        body = {"routing": {"gamma": 0.5, "options": {"isolation": isolation}}}
        together = first_logprobs(text_model, prompts[:3], body)
        alone = [first_logprobs(text_model, [ids], body)[0] for ids in prompts[:3]]
        return abs(together - np.array(alone)), together

    apart, limited = alone_and_together("strict")
    assert apart.max() < 1e-4
    unlimited = first_logprobs(text_model, prompts[:3], {})
    assert abs(limited - unlimited).max() > 0.1
    shared, _ = alone_and_together("batch")
    assert shared.max() > 0.01


def test_shared_blocks_are_not_routed_again(text_model, prompts, prior):
    long, by_load = prompts[0] * 3, {"strategy": "best_fit", "predictor": "token-prior", "prior": prior}
    batching = dataclasses.replace(BATCHING, allow_block_sharing=True, max_requests_per_batch=1)
    once = run(text_model, [long], {"scheduling": by_load}, batching)
    twice = run(text_model, [long, long], {"scheduling": by_load}, batching)
    assert twice.tokens == once.tokens * 2
    shared = (len(long) - 1) // 16 * 16
    tokens = once.loads.total.tokens_L[0]
    assert shared > 0
    assert twice.loads.total.tokens_L.tolist() == [2 * tokens - shared] * 4


def test_predictions_are_compared_with_loads_over_the_same_tokens(text_model, prompts, prior):
    body = {
        "scheduling": {"strategy": "greedy_variance", "predictor": "token-prior", "prior": prior},
        "metrics": {"least_requests": 2, "interval_s": 1e-6},
    }
    scheduling = run(text_model, prompts, body).scheduling
    assert scheduling.num_feedback >= 1
    assert scheduling.num_unaligned == 0
    assert 0 <= scheduling.prediction_error["plain"] < 0.5


def test_what_is_told_is_of_many_requests_and_ends_with_the_block(text_model, prompts):
    config = serving_config_of({"metrics": {"least_requests": 4, "interval_s": 1e-6}})
    told = []
    batching = dataclasses.replace(BATCHING, scheduler_type="evenmoe", max_requests_per_batch=1)
    with ServingSession(text_model, config) as session:
        assert session.loads().num_tokens == 0
        session._publisher._write = lambda snapshot: told.append(snapshot)
        text_model.generate_batch(prompts, generation_config=GENERATION, continuous_batching_config=batching)
        again = text_model.generate_batch(
            prompts, generation_config=GENERATION, continuous_batching_config=batching
        )
    assert len(again) == len(prompts)
    requests = [0, *(snapshot.num_requests for snapshot in told)]
    assert np.diff(requests).min() >= 4
    assert requests[-1] == 12
    assert [snapshot.loads.total.tokens_L[0] for snapshot in told] == [one.num_tokens for one in told]
    with pytest.raises(AttachError), ServingSession(text_model, config):
        ServingSession(text_model, config)


REFUSED = {
    "use_cuda_graph": {"use_cuda_graph": True},
    "use_async_batching": {"use_async_batching": True},
    "varlen_compile_config": {"varlen_compile_config": CompileConfig()},
    "default_compile_level": {"default_compile_level": 1},
    "scheduler_type": {"scheduler_type": "prefill_first"},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_act_is_refused(text_model, prompts, field):
    with pytest.raises(ConfigError, match=field):
        run(text_model, prompts, {}, dataclasses.replace(BATCHING, **REFUSED[field]))


def test_what_would_break_isolation_is_refused(text_model, prompts):
    strict = {"routing": {"gamma": 1.0, "options": {"isolation": "strict"}}}
    with pytest.raises(ConfigError, match="allow_block_sharing"):
        run(text_model, prompts, strict, dataclasses.replace(BATCHING, allow_block_sharing=True))
    with pytest.raises(ConfigError, match=r"max_batch_tokens = 16 .* at least"):
        run(text_model, prompts, strict, dataclasses.replace(BATCHING, max_batch_tokens=16))


def test_what_is_no_batch_is_refused(text_model, prompts):
    for inputs in ([], [[]], [prompts[0], []]):
        with pytest.raises(ConfigError, match="inputs"):
            run(text_model, inputs, {})
    with pytest.raises(ConfigError, match="num_return_sequences"):
        generate_batch(
            text_model,
            prompts,
            serving_config_of({}),
            generation_config=GenerationConfig(num_return_sequences=2, do_sample=True),
        )


def test_a_forward_that_fails_is_told_as_an_error_not_as_fewer_outputs(text_model, prompts):
    def fail(*_call):
        raise RuntimeError("the device is gone")

    handle = text_model.model.layers[2].register_forward_hook(fail)
    try:
        with pytest.raises(EngineError, match="inputs were not finished: the device is gone"):
            run(text_model, prompts, {})
    finally:
        handle.remove()
    assert run(text_model, prompts[:1], {}).tokens
