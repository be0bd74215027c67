"""Predictors that ask the model: exact where they say so, beside models that have nothing but routers."""

import numpy as np
import pytest
import torch

from evenmoe.errors import AttachError, ConfigError, ShapeError, UnsupportedModelError
from evenmoe.models.attach import attach
from evenmoe.models.prediction import (
    Alone,
    ChoiceListener,
    FullPrefill,
    Gates,
    learn_token_prior,
    record_prompts,
    true_loads,
)
from evenmoe.models.tiny import is_installed, tiny_inputs, tiny_model
from evenmoe.models.tiny.defaults import FIRST_TEXT_ID, LAST_TEXT_ID, NUM_EXPERTS, PAD_ID, TOP_K
from evenmoe.routing import Baseline, TokenDrop
from tests.oracles import predictors as oracle


def _slow(*names):
    return tuple(pytest.param(name, marks=pytest.mark.slow) for name in names)


KINDS = ("olmoe", "gpt_oss", "gemma4", "dbrx")
MORE_KINDS = _slow("mixtral", "deepseek_v3", "llama4_text", "jetmoe", "flex_olmo")
"""Kinds of hooks, norms before and none, selection biases, routers that the block chooses for."""


def prompts_of(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_TEXT_ID, LAST_TEXT_ID + 1, length) for length in lengths]


def chosen_by_logits(model, ids_T):
    """[token][layer]: the experts that the model's own router logits say."""
    with torch.inference_mode():
        logits_L = model(torch.from_numpy(ids_T)[None], output_router_logits=True).router_logits
    top_LTK = [logits_TE.topk(TOP_K).indices.tolist() for logits_TE in logits_L]
    return [[set(top_TK[token]) for top_TK in top_LTK] for token in range(len(ids_T))]


@pytest.fixture(scope="module")
def olmoe():
    return tiny_model("olmoe")


def test_full_is_the_true_load_exactly(olmoe):
    (ids_T,) = prompts_of(40)
    table = oracle.counted([ids_T.tolist()], [chosen_by_logits(olmoe, ids_T)], 2, NUM_EXPERTS)
    true_LE = np.sum([counts for _, counts in table.values()], axis=0)
    with FullPrefill(olmoe) as full:
        np.testing.assert_array_equal(full.predict(ids_T), true_LE)
        np.testing.assert_array_equal(full.predict(ids_T), true_LE)
        assert full.predict([]).tolist() == np.zeros((2, NUM_EXPERTS)).tolist()
    with attach(olmoe, Baseline()) as attached:
        olmoe(torch.from_numpy(ids_T)[None])
        np.testing.assert_array_equal(attached.loads.total.before_LE, true_LE)


def test_prompts_that_share_a_batch_keep_their_loads(olmoe):
    prompts = prompts_of(5, 9, 5, 9, 9, 1)
    prompts[1][-3:] = PAD_ID  # an id, not padding
    with FullPrefill(olmoe) as full:
        alone = [full.predict(ids_T) for ids_T in prompts]
    with attach(olmoe, Baseline(), pad_token_id=-1) as attached:
        told = []
        together = true_loads(olmoe, attached, [*prompts, []], batch_size=2, progress=told.append)
    np.testing.assert_array_equal(together, [*alone, np.zeros((2, NUM_EXPERTS))])
    assert told == [1, 3, 5, 6]


def test_the_counts_of_a_learned_prior_are_the_oracles(olmoe):
    prompts = prompts_of(12, 20, 12, 7, 30)
    chosen = [chosen_by_logits(olmoe, ids_T) for ids_T in prompts]
    table = oracle.counted([ids_T.tolist() for ids_T in prompts], chosen, 2, NUM_EXPERTS)
    prior = learn_token_prior(olmoe, [*prompts, []], batch_size=2, model_name="tiny", domains=["random"])
    counts = prior.counts
    assert counts.ids_R.tolist() == sorted(table)
    for token, seen, counts_LE in zip(counts.ids_R, counts.seen_R, counts.dense(), strict=True):
        assert (seen, counts_LE.tolist()) == table[token]
    plain = prior.replace(calibration=None)
    ids = prompts[0].tolist()
    np.testing.assert_allclose(
        plain.predict(ids), oracle.prior(table, ids, prior.shrinkage), rtol=1e-5, atol=1e-5
    )
    assert (prior.model, prior.domains) == ("tiny", ("random",))


def test_folds_are_the_prompts_in_their_order(olmoe):
    prompts = prompts_of(4, 6, 4, 5, 6)
    folds = record_prompts(olmoe, prompts)
    assert len(folds) == 4
    assert [ids_T.tolist() for fold in folds for ids_T in fold.prompts] == [one.tolist() for one in prompts]
    with FullPrefill(olmoe) as full:
        for fold in folds:
            np.testing.assert_array_equal(fold.load_NLE, [full.predict(ids_T) for ids_T in fold.prompts])
            np.testing.assert_array_equal(fold.counts.load_LE(), fold.load_NLE.sum(0))
    with pytest.raises(ConfigError):
        record_prompts(olmoe, [[]])


def test_any_run_can_be_learned_from_padded_and_while_generating(olmoe):
    """What a policy drops counts too: it is the routers' choice that is learned."""
    inputs = tiny_inputs("olmoe", batch=2, length=6)
    ids_BS = torch.nn.functional.pad(inputs["input_ids"], (3, 0), value=PAD_ID)
    mask_BS = torch.nn.functional.pad(inputs["attention_mask"], (3, 0))
    with attach(olmoe, TokenDrop(gamma=1.0)) as attached:
        listener = ChoiceListener(attached)
        with attached.observed(listener):
            given = olmoe.generate(
                ids_BS, attention_mask=mask_BS, max_new_tokens=4, min_new_tokens=4, do_sample=False
            )
        counts = listener.counts()
        np.testing.assert_array_equal(counts.load_LE(), attached.loads.total.before_LE)
    run = torch.cat([row[3:-1] for row in given])  # the last token is never run
    found, number = run.unique(return_counts=True)
    assert counts.ids_R.tolist() == found.tolist()
    assert counts.seen_R.tolist() == number.tolist()


def test_tokens_without_ids_are_refused(olmoe):
    embedded = torch.zeros(1, 4, olmoe.config.hidden_size)
    with (
        attach(olmoe, Baseline()) as attached,
        attached.observed(ChoiceListener(attached)),
        pytest.raises(ShapeError, match="token ids"),
    ):
        olmoe(inputs_embeds=embedded)


@pytest.mark.parametrize("model_type", [*KINDS, *MORE_KINDS])
def test_gates_are_a_model_whose_layers_add_nothing(model_type):
    """With the outputs of attention and experts at zero, the model's own prefill is what gates say."""
    if not is_installed(model_type):
        pytest.skip(f"this transformers has no {model_type}")
    model = tiny_model(model_type, seed=1)
    ids_T = prompts_of(50)[0]
    before = Gates(model).predict(ids_T)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "output_linear", "out_proj", "w2")):
                parameter.zero_()
    with FullPrefill(model) as full:
        true_LE = full.predict(ids_T)
    gates = Gates(model)
    np.testing.assert_array_equal(gates.predict(ids_T), true_LE)
    np.testing.assert_array_equal(before, true_LE)
    np.testing.assert_array_equal(Gates(model, keep=False).predict(ids_T), true_LE)
    np.testing.assert_array_equal(gates.predict(ids_T[::-1]), true_LE)
    assert gates.predict([]).shape == true_LE.shape


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("zaya", "more than hidden states"),
        ("qwen4_exp", "no norm stands before it"),
        ("diffusion_gemma", "the embeddings of the prompt are"),
    ],
)
def test_gates_refuse_routers_that_cannot_be_asked(model_type, reason):
    if not is_installed(model_type):
        pytest.skip(f"this transformers has no {model_type}")
    model = tiny_model(model_type)
    with pytest.raises(UnsupportedModelError, match=reason):
        Gates(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("model_type", ["olmoe", "zaya", *_slow("longcat_flash", "ernie4_5_vl_moe")])
def test_alone_is_every_token_as_its_own_prompt(model_type):
    if not is_installed(model_type):
        pytest.skip(f"this transformers has no {model_type}")
    model = tiny_model(model_type)
    ids_T = prompts_of(9)[0]
    with FullPrefill(model) as full:
        expected = sum(full.predict([token]) for token in ids_T)
    with Alone(model, batch_size=4) as alone:
        np.testing.assert_array_equal(alone.predict(ids_T), expected)
    np.testing.assert_array_equal(alone.predict(ids_T), expected)  # looked up
    with Alone(model, keep=False) as alone:
        np.testing.assert_array_equal(alone.predict(ids_T), expected)


def test_one_attachment_at_a_time(olmoe):
    with FullPrefill(olmoe), pytest.raises(AttachError):
        learn_token_prior(olmoe, prompts_of(4))
    learn_token_prior(olmoe, prompts_of(4))
