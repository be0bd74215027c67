"""The exceptions to the common contract: each saves compute, and treats what is special about it as documented."""

import pytest
import torch

import evenmoe
from evenmoe.models.sites import find_sites
from evenmoe.routing import Baseline, ExpandedDrop, Fill, TokenDrop
from tests.models.attach_reference import forward, ids_of, tiny_model, watch


@pytest.mark.parametrize("name", ["llama4_text", "llama4"])
@pytest.mark.parametrize("policy", [TokenDrop, Fill])
def test_llama4_runs_the_busiest_load_per_expert_and_nothing_more(name, policy):
    model, ids = tiny_model(name), ids_of()
    rows, outputs = [], []
    for site in find_sites(model):
        site.experts.register_forward_pre_hook(lambda _m, args: rows.append(args[0].shape[0]))
        site.block.register_forward_hook(lambda _m, args, out: outputs.append((args[0], out[0])))
    with evenmoe.attach(model, policy(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        handles = [
            site.experts.register_forward_pre_hook(lambda _m, a: rows.append(a[0].shape[0]))
            for site in find_sites(model)
        ]
        forward(model, ids)
    for handle in handles:
        handle.remove()
    after = rows[1::2]
    assert rows[0] == 8 * ids.numel()
    assert after == [8 * int(step.kept_TE.sum(0).max()) for step in steps]
    assert all(count <= 8 * 2 * 12 for count in after)
    for step, site, (hidden, out) in zip(steps, find_sites(model), outputs, strict=True):
        torch.testing.assert_close(out, slow_llama4(site, hidden, step.kept_TE), rtol=1e-4, atol=1e-5)


def slow_llama4(site, hidden, kept_TE):
    """A loop over tokens: shared expert plus each kept expert, the score on its input."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    with torch.no_grad():
        logits = torch.nn.functional.linear(flat, site.router.weight)
        total = site.block.shared_expert(flat).clone()
        for token, expert in kept_TE.nonzero().tolist():
            x = flat[token] * logits[token, expert].sigmoid()
            gate, up = (x @ site.experts.gate_up_proj[expert]).chunk(2)
            total[token] += (up * site.experts.act_fn(gate)) @ site.experts.down_proj[expert]
    return total


@pytest.mark.parametrize("policy", [TokenDrop, Fill])
def test_jetmoe_gives_its_experts_the_kept_rows_alone(policy):
    model, ids = tiny_model("jetmoe"), ids_of()
    sizes, outputs = [], []
    blocks = [site.block for site in find_sites(model)]
    assert {type(block).__name__ for block in blocks} == {"JetMoeMoE"}
    for block in blocks:
        block.input_linear.register_forward_pre_hook(
            lambda _m, args: sizes.append((args[0].shape[0], list(args[1])))
        )
        block.register_forward_hook(lambda _m, args, out: outputs.append((args[0], out)))
    with evenmoe.attach(model, policy(gamma=1.0)) as attached, watch(attached) as steps:
        forward(model, ids)
    for step, site, (rows, by_expert), (hidden, out) in zip(
        steps, find_sites(model), sizes, outputs, strict=True
    ):
        assert rows == sum(by_expert) == int(step.kept_TE.sum())
        assert by_expert == step.kept_TE.sum(0).tolist()
        torch.testing.assert_close(out, slow_jetmoe(site, hidden, step), rtol=1e-4, atol=1e-5)


def slow_jetmoe(site, hidden, step):
    """A loop over tokens: softmax over the kept experts' logits, times the experts, plus the bias."""
    flat, block = hidden.reshape(-1, hidden.shape[-1]), site.block
    total = torch.zeros_like(flat)
    with torch.no_grad():
        logits = site.router.layer(flat)
        for token in range(flat.shape[0]):
            kept = step.kept_TE[token].nonzero().flatten()
            for expert, weight in zip(kept.tolist(), logits[token, kept].softmax(0), strict=True):
                gate, up = (block.input_linear.weight[expert] @ flat[token]).chunk(2)
                total[token] += weight * (block.output_linear.weight[expert] @ (block.activation(gate) * up))
    return (total + block.bias).view(hidden.shape)


def test_longcat_identity_experts_are_never_dropped_and_no_load():
    model, ids = tiny_model("longcat_flash"), ids_of()
    calls = []
    with evenmoe.attach(model, TokenDrop(gamma=0.5)) as attached, watch(attached) as steps:
        handle = find_sites(model)[0].experts.register_forward_pre_hook(lambda _m, args: calls.append(args))
        forward(model, ids)
        handle.remove()
    plain = []
    handle = find_sites(model)[0].experts.register_forward_pre_hook(lambda _m, args: plain.append(args))
    forward(model, ids)
    handle.remove()
    routed = steps[0].chosen_TE.shape[1]
    free = int((plain[0][1] >= routed).sum())
    assert free > 0
    assert int((calls[0][1][:, 0] >= routed).sum()) == free
    assert (calls[0][2][:, 1] == 0).all()
    assert attached.loads.num_experts == routed
    assert steps[0].chosen_TE.sum() == (plain[0][1] < routed).sum()


def test_zaya_skipped_tokens_are_no_load_and_get_no_substitute():
    model, ids = tiny_model("zaya"), ids_of()
    for site in find_sites(model):
        site.router.balancing_biases[-1] = 0.6
    for policy in (Baseline(), ExpandedDrop(gamma=1.0)):
        weights = []
        with evenmoe.attach(model, policy, num_devices=2) as attached, watch(attached) as steps:
            handle = find_sites(model)[0].router.register_forward_hook(
                lambda _m, _a, out, into=weights: into.append(out[1])
            )
            forward(model, ids)
            handle.remove()
        skipped = (weights[0] == 0).all(1)
        assert skipped.any()
        assert not steps[0].chosen_TE[skipped].any()
        assert not steps[0].kept_TE[skipped].any()
        assert attached.loads.total.before_LE[0].sum() == (~skipped).sum()


def test_gemma4_scores_are_probabilities():
    model = tiny_model("gemma4")
    with evenmoe.attach(model, Baseline()) as attached, watch(attached) as steps:
        forward(model, ids_of())
    torch.testing.assert_close(steps[0].scores_TE.sum(1), torch.ones(96))
    assert attached.layers[0].name == "model.language_model.layers.0"


def test_deepseek_v4_hash_layers_route_by_token_id():
    overrides = {"mlp_layer_types": ["hash_moe", "moe"]}
    model, ids = tiny_model("deepseek_v4", **overrides), ids_of()
    table = model.model.layers[0].mlp.gate.tid2eid
    table.copy_(torch.stack([torch.arange(len(table)) % 8, (torch.arange(len(table)) + 3) % 8], 1))
    plain = forward(model, ids)
    with evenmoe.attach(model, TokenDrop(gamma=float("inf"))) as attached:
        assert torch.equal(forward(model, ids), plain)
        assert all(layer.checked and layer.score == "sqrt_softplus" for layer in attached.layers)
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached, watch(attached) as steps:
        forward(model, ids)
    expected = torch.zeros(ids.numel(), 8, dtype=torch.bool).scatter_(1, table[ids.flatten()], True)
    assert torch.equal(steps[0].chosen_TE, expected)
    assert attached.loads.total.after_LE.max() <= 24


def test_ernie_vl_limits_each_modality_by_its_own_tokens():
    model, ids = tiny_model("ernie4_5_vl_moe"), ids_of(rows=2, length=24)
    types = torch.zeros_like(ids)
    types[:, 4:14] = 1
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    inner = model.model.language_model
    options = {"attention_mask": mask, "moe_mm_token_type_ids": types}
    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        forward(inner, ids, **options)
    names = {step.name.rsplit(".", 1)[1]: step for step in steps[:2]}
    text, vision = names["text_moe"], names["vision_moe"]
    assert text.tokens.num_real == 28 - 4
    assert vision.tokens.num_real == 20 - 2
    assert text.tokens.row_T.tolist() == [0] * 14 + [1] * 14
    assert vision.tokens.device_T.tolist() == [0] * 10 + [1] * 10
    assert text.tokens.real_T.tolist() == [True] * 14 + [False] * 4 + [True] * 10
    for step, per_device in ((text, (14, 10)), (vision, (10, 8))):
        for device, num_tokens in enumerate(per_device):
            load = step.kept_TE[step.tokens.device_T == device].sum(0).max()
            assert load <= -(-num_tokens * 2 // 8)
    with evenmoe.attach(model, TokenDrop(gamma=float("inf"))):
        unlimited = forward(inner, ids, **options)
    assert torch.equal(forward(inner, ids, **options), unlimited)


def test_dots3_and_jetmoe_attention_are_left_alone():
    names = [site.name for site in find_sites(tiny_model("jetmoe"))]
    assert all("self_attention" not in name for name in names)
    assert len(names) == 2


def test_an_architecture_nobody_stated_is_inferred(monkeypatch):
    from evenmoe.models import architectures

    stated = dict(architectures.ARCHITECTURES)
    model, ids = tiny_model("mixtral"), ids_of()
    with evenmoe.attach(model, Fill(gamma=1.0)):
        expected = forward(model, ids)
    del stated["mixtral"]
    for module in ("architectures", "sites", "probe"):
        monkeypatch.setattr(f"evenmoe.models.{module}.ARCHITECTURES", stated)
    with evenmoe.attach(model, Fill(gamma=1.0)) as attached:
        assert (attached.layers[0].score, attached.layers[0].renormalise) == ("softmax", "top-k")
        assert torch.equal(forward(model, ids), expected)
