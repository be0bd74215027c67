"""The defects found in the published code by running it, each as a test that ours does not have it.

The letters are those of the list in docs: (b), (e), (f) and (h) are about routing alone and are tested there.
"""

import pytest
import torch

import evenmoe
from evenmoe.errors import AttachError, ConfigError
from evenmoe.models.sites import find_sites
from evenmoe.routing import TokenDrop
from tests.models.attach_reference import forward, ids_of, rows_given, tiny_model, watch


@pytest.mark.parametrize("name", ["olmoe", "qwen2_moe", "jamba"])
def test_a_dropped_slots_are_not_refilled(name):
    """The published patch put the original expert back: peak 270 at a capacity of 32."""
    model, ids = tiny_model(name), ids_of(rows=4, length=64)
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached, rows_given(model) as calls:
        forward(model, ids)
    capacity = -(-ids.numel() * 2 // 8)
    assert attached.loads.total.before_LE.max() > capacity
    assert max(map(max, calls)) <= capacity


@pytest.mark.parametrize("name", ["olmoe", "qwen2_moe", "jamba", "deepseek_v2"])
def test_a_outputs_do_not_move_where_nothing_is_dropped(name):
    """The published patch moved the outputs of models that do not renormalise by 8 to 12%."""
    model, ids = tiny_model(name), ids_of(rows=4, length=64)
    plain = forward(model, ids)
    for gamma in (8.0, float("inf")):  # 8: every expert has room for every token
        with evenmoe.attach(model, TokenDrop(gamma=gamma)) as attached:
            assert {layer.renormalise for layer in attached.layers} == {"none"}
            assert torch.equal(forward(model, ids), plain)


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_c_a_token_may_keep_expert_0_and_lose_a_later_one(name):
    """DeepSeek's published inference path crashed there."""
    model, ids = tiny_model(name, n_group=1, topk_group=1), ids_of(rows=4, length=64)
    with evenmoe.attach(model, TokenDrop(gamma=0.5)) as attached, watch(attached) as steps:
        assert forward(model, ids).isfinite().all()
    such = [(s.kept_TE[:, 0] & (s.chosen_TE & ~s.kept_TE)[:, 1:].any(1)).sum() for s in steps]
    assert sum(such) > 0


def test_d_mixtral_keeps_its_renormalisation():
    """The published Mixtral lost it, so that its uncapped baseline differed from the stock model."""
    model, ids = tiny_model("mixtral"), ids_of()
    plain = forward(model, ids)
    sums = []
    site = find_sites(model)[0]
    with evenmoe.attach(model, TokenDrop(gamma=float("inf"))):
        handle = site.experts.register_forward_pre_hook(lambda _m, args: sums.append(args[2].sum(1)))
        assert torch.equal(forward(model, ids), plain)
        handle.remove()
    torch.testing.assert_close(sums[0], torch.ones(ids.numel()))


def test_g_a_setting_acts_on_the_model_it_was_given_or_not_at_all():
    """A published script could write the setting to one checkpoint and load another."""
    model, other = tiny_model("olmoe", seed=0), tiny_model("olmoe", seed=1)
    ids = ids_of()
    plain = forward(other, ids)
    attached = evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2)
    assert torch.equal(forward(other, ids), plain)
    forward(model, ids)
    assert attached.attached
    assert attached.policy.gamma == attached.describe()["gamma"] == 1.0
    assert attached.loads.drop_rate > 0
    with pytest.raises(AttachError):
        evenmoe.attach(model, TokenDrop(gamma=2.0))
    with pytest.raises(TypeError, match="capacity"):
        evenmoe.attach(other, TokenDrop(gamma=1.0), capacity=3)
    with pytest.raises(AttributeError):
        attached.policy.gamma = 2.0
    attached.detach()
    with pytest.raises(ConfigError):
        evenmoe.attach(model, None)
