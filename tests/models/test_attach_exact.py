"""Attaching changes nothing unless something is dropped, and detaching leaves nothing behind."""

import copy
import gc
import weakref

import pytest
import torch

import evenmoe
from evenmoe.errors import AttachError
from evenmoe.routing import Baseline, ExpandedDrop, ExpertDrop, Fill, ThresholdDrop, TokenDrop
from evenmoe.routing.policy import Policy
from tests.models.attach_reference import forward, hooks_on, ids_of, rows_given, state_of, tiny_model, watch

ARCHITECTURES = [
    "olmoe",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "deepseek_v4",
    "gpt_oss",
    "dbrx",
    "gemma4",
    "diffusion_gemma",
    "jetmoe",
    "llama4_text",
    "longcat_flash",
    "zaya",
    "step3p7",
    "inkling_mm_model",
    "ernie4_5_vl_moe",
    "nemotron_h",
    "phimoe",
]
INF = float("inf")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_unlimited_is_bitwise_the_plain_model_and_detaching_restores_it(name):
    model, ids = tiny_model(name), ids_of()
    plain, hooks, state = forward(model, ids), hooks_on(model), state_of(model)
    with evenmoe.attach(model, TokenDrop(gamma=INF), num_devices=2) as attached:
        assert torch.equal(forward(model, ids), plain)
        assert attached.loads.drop_rate == 0
        assert all(layer.checked for layer in attached.layers)
    with evenmoe.attach(model, TokenDrop(gamma=0.5)) as attached:
        assert not torch.equal(forward(model, ids), plain)
        assert attached.loads.drop_rate > 0
    assert torch.equal(forward(model, ids), plain)
    assert (hooks_on(model), state_of(model)) == (hooks, state)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_layer_exceeds_its_capacity(name):
    model, ids = tiny_model(name), ids_of(rows=4, length=24)
    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        forward(model, ids, attention_mask=torch.ones_like(ids))
    for step in steps:
        device_T = step.tokens.device_T
        for device in range(2):
            chosen = step.chosen_TE[device_T == device]
            capacity = -(-int(chosen.sum()) // chosen.shape[1])
            assert step.kept_TE[device_T == device].sum(0).max() <= capacity
            assert not (step.kept_TE & ~step.chosen_TE).any()


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("name", ["olmoe", "mixtral", "gpt_oss"])
def test_every_experts_implementation_agrees(name, implementation):
    model, ids = tiny_model(name), ids_of()
    model.set_experts_implementation("eager")
    with evenmoe.attach(model, Fill(gamma=1.0), num_devices=2):
        expected = forward(model, ids)
    model.set_experts_implementation(implementation)
    plain = forward(model, ids)
    with evenmoe.attach(model, TokenDrop(gamma=INF)):
        assert torch.equal(forward(model, ids), plain)
    with evenmoe.attach(model, Fill(gamma=1.0), num_devices=2):
        torch.testing.assert_close(forward(model, ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["olmoe", "llama4_text", "jetmoe", "qwen3_vl_moe"])
def test_unlimited_generation_is_the_plain_generation(name):
    model, ids = tiny_model(name), ids_of(rows=3, length=9)
    ids[0, :4] = 0
    mask = (ids != 0).long()
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": mask}
    plain = model.generate(ids, **options)
    with evenmoe.attach(model, TokenDrop(gamma=INF), num_devices=3):
        assert torch.equal(model.generate(ids, **options), plain)
    with evenmoe.attach(model, TokenDrop(gamma=0.5), num_devices=3) as attached:
        assert model.generate(ids, **options).shape[0] == 3
        assert attached.loads.drop_rate > 0
    assert torch.equal(model.generate(ids, **options), plain)


def test_inference_mode_and_training():
    model, ids = tiny_model("olmoe"), ids_of()
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached:
        with torch.inference_mode():
            first = model(ids).logits.clone()
        torch.testing.assert_close(forward(model, ids), first)
        model.train()
        loss = model(ids, labels=ids).loss
        loss.backward()
        assert model.model.layers[0].mlp.experts.down_proj.grad.abs().sum() > 0
        assert model.model.layers[0].mlp.gate.weight.grad.abs().sum() > 0
        model.eval()
        assert attached.loads.total.tokens_L.tolist() == [3 * ids.numel()] * 2


def test_half_precision():
    model, ids = tiny_model("mixtral").bfloat16(), ids_of()
    plain = forward(model, ids)
    with evenmoe.attach(model, Fill(gamma=INF), num_devices=2) as attached:
        assert all(layer.score == "softmax" for layer in attached.layers)
        assert torch.equal(forward(model, ids), plain)
    with evenmoe.attach(model, Fill(gamma=1.0), num_devices=2):
        assert forward(model, ids).dtype == torch.bfloat16


def test_attaching_twice_is_refused_until_detached():
    model = tiny_model("olmoe")
    attached = evenmoe.attach(model, Baseline())
    for part in (model, model.model):
        with pytest.raises(AttachError, match="already"):
            evenmoe.attach(part, Baseline())
    attached.detach()
    with pytest.raises(AttachError, match="already detached"):
        attached.detach()
    with evenmoe.attach(model.model, Baseline()):
        pass


def test_a_deep_copy_made_before_is_independent():
    model, ids = tiny_model("olmoe"), ids_of()
    other = copy.deepcopy(model)
    plain = forward(other, ids)
    with evenmoe.attach(model, TokenDrop(gamma=0.5)), evenmoe.attach(other, Baseline()):
        assert torch.equal(forward(other, ids), plain)


def test_an_error_inside_a_forward_leaves_a_usable_state():
    model, ids = tiny_model("olmoe"), ids_of()
    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2):
        expected = forward(model, ids)
    for place in ("gate", "experts", "block"):
        with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached:
            mlp = model.model.layers[1].mlp
            module = mlp if place == "block" else getattr(mlp, place)
            handle = module.register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="on purpose"):
                forward(model, ids)
            handle.remove()
            attached.reset_loads()
            assert torch.equal(forward(model, ids), expected)
            assert attached.loads.total.tokens_L.tolist() == [ids.numel()] * 2


def fail(*_):
    raise RuntimeError("on purpose")


def test_a_model_can_be_freed_after_detaching():
    model = tiny_model("olmoe")
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached:
        forward(model, ids_of())
    gone = weakref.ref(model)
    del model, attached
    gc.collect()
    assert gone() is None


def test_compute_is_saved_not_only_weights_zeroed():
    model, ids = tiny_model("olmoe"), ids_of()
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached, rows_given(model) as calls:
        forward(model, ids)
    after = attached.loads.total.after_LE.tolist()
    assert calls == after
    assert sum(map(sum, calls)) < 2 * ids.numel() * 2


class DropAll(Policy):
    """A policy that keeps nothing."""

    name = "drop-all"

    def _keep(self, scores_TE, chosen_TE, ctx):
        return torch.zeros_like(chosen_TE)


def test_no_pair_kept_runs_one_row_of_nothing():
    model, ids = tiny_model("olmoe"), ids_of()
    with evenmoe.attach(model, DropAll()) as attached, rows_given(model) as calls:
        logits = forward(model, ids)
    assert logits.isfinite().all()
    assert attached.loads.total.after_LE.sum() == 0
    assert sum(map(sum, calls)) == 0
    assert attached.loads.tokens_without_expert == 1.0


@pytest.mark.parametrize("policy", [ExpertDrop(), ThresholdDrop(threshold=0.1), ExpandedDrop(gamma=1.0)])
def test_every_policy_runs(policy):
    model, ids = tiny_model("mixtral"), ids_of()
    with evenmoe.attach(model, policy, num_devices=2) as attached:
        assert forward(model, ids).isfinite().all()
    assert attached.loads.drop_rate > 0


def test_random_drops_follow_the_seed():
    model, ids = tiny_model("olmoe"), ids_of()

    def run(seed):
        with evenmoe.attach(model, TokenDrop(gamma=0.5, keep="random"), seed=seed):
            return forward(model, ids), forward(model, ids)

    assert all(torch.equal(a, b) for a, b in zip(run(1), run(1), strict=True))
    assert not torch.equal(run(1)[0], run(2)[0])
    assert not torch.equal(*run(1))


def test_an_interrupt_leaves_a_usable_state():
    model, ids = tiny_model("olmoe"), ids_of()

    def interrupt(*_):
        raise KeyboardInterrupt

    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached:
        expected = forward(model, ids)
        for caller in (model, model.model):
            handle = model.model.layers[1].mlp.gate.register_forward_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                caller(ids)
            handle.remove()
            attached.reset_loads()
            assert torch.equal(forward(model, ids), expected)
            assert attached.loads.total.tokens_L.tolist() == [ids.numel()] * 2
