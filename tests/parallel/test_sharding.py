"""Each rank keeps its experts; what cannot be shared out, or not so, is refused."""

import copy
from types import SimpleNamespace

import pytest
import torch

import evenmoe
from evenmoe.errors import AttachError, ConfigError, ShapeError, UnsupportedModelError
from evenmoe.models.sites import find_sites
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.parallel import Group, gather_loads, shard
from evenmoe.placement import Placement
from evenmoe.routing import TokenDrop
from tests.parallel.thread_ranks import run_ranks


def ranks_of(world_size):
    return [
        SimpleNamespace(rank=rank, world_size=world_size, device=torch.device("cpu"))
        for rank in range(world_size)
    ]


def shards(model_type, world_size, placement=None, form="data", **overrides):
    """The whole model, and the model of each rank."""
    whole = tiny_model(model_type, **overrides)
    parts = []
    for group in ranks_of(world_size):
        part = copy.deepcopy(whole)
        parallel = shard(part, group, placement=placement, form=form)
        assert (parallel.rank, parallel.num_devices, parallel.form) == (group.rank, world_size, form)
        parts.append(part)
    return whole, parts


def expert_weights(site):
    """{name: tensor by expert} of a site's experts, for up to 8 experts."""
    experts = 8 if site.kind == "dbrx" else None
    return {
        name: tensor.view(experts, -1, tensor.shape[-1]) if experts else tensor
        for name, tensor in site.experts.named_parameters()
        if tensor.dim() > 1
    }


@pytest.mark.parametrize("placement", [None, [2, 1, 0, 0, 1, 2, 2, 0], [0, [0, 2], 1, [0, 1, 2], 0, 1, 1, 2]])
@pytest.mark.parametrize("model_type", ["olmoe", "gpt_oss", "nemotron_h", "muse_spark"])
def test_each_rank_keeps_the_experts_of_its_placement(model_type, placement):
    whole, parts = shards(model_type, 3, placement)
    held = Placement.of(placement or [0, 0, 0, 1, 1, 1, 2, 2], 3).holds(0)
    for rank, part in enumerate(parts):
        own = torch.from_numpy(held[rank]).nonzero().view(-1)
        for full, site in zip(find_sites(whole), find_sites(part), strict=True):
            assert site.experts.num_experts == len(own)
            kept = expert_weights(site)
            for name, tensor in expert_weights(full).items():
                assert torch.equal(kept[name], tensor[own])
                assert kept[name].untyped_storage().nbytes() == kept[name].nbytes  # the rest is freed
        experts = [site.experts for site in find_sites(part)]
        inside = {id(p) for module in experts for p in module.parameters()}
        for name, tensor in part.named_parameters():
            if id(tensor) not in inside:
                assert torch.equal(tensor, dict(whole.named_parameters())[name])


def test_fused_rows_of_dbrx_are_shared_out_by_expert():
    whole, parts = shards("dbrx", 2)
    for full, first, second in zip(find_sites(whole), *map(find_sites, parts), strict=True):
        for name, tensor in full.experts.named_parameters():
            halves = [dict(site.experts.named_parameters())[name] for site in (first, second)]
            assert torch.equal(torch.cat(halves), tensor)
        assert first.experts.num_experts == 4


def test_experts_that_do_not_divide_go_to_the_first_ranks():
    _, parts = shards("olmoe", 3, num_experts=7)
    assert [find_sites(part)[0].experts.num_experts for part in parts] == [3, 2, 2]


def test_a_rank_without_experts_keeps_a_stand_in():
    _, parts = shards("olmoe", 2, [0] * 8)
    assert [find_sites(part)[0].experts.num_experts for part in parts] == [8, 1]


def test_buffers_by_expert_are_shared_out_too():
    model = tiny_model("olmoe")
    for site in find_sites(model):
        site.experts.register_buffer("scale", torch.arange(8.0))
    shard(model, ranks_of(2)[1])
    assert find_sites(model)[0].experts.scale.tolist() == [4.0, 5.0, 6.0, 7.0]


def test_requires_grad_is_kept():
    model = tiny_model("olmoe").requires_grad_(False)
    shard(model, ranks_of(2)[0])
    assert not any(parameter.requires_grad for parameter in model.parameters())


def refused(error, match, model_type="olmoe", world_size=2, change=lambda model: None, **options):
    model = tiny_model(model_type)
    change(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=match):
        shard(model, ranks_of(world_size)[0], **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("model_type", ["llama4_text", "jetmoe", "longcat_flash"])
def test_layers_that_cannot_be_shared_out_are_refused_by_name(model_type):
    refused(UnsupportedModelError, r"model\.layers\.0\..*cannot be shared out", model_type)


def test_experts_that_not_every_rank_calls_are_refused_in_form_data():
    refused(UnsupportedModelError, 'form "shared" works', "ernie4_5_vl_moe")
    shard(tiny_model("ernie4_5_vl_moe"), ranks_of(2)[0], form="shared")


def test_settings_that_do_not_fit_are_refused():
    refused(ConfigError, "world_size = 9.*at most the 8 experts", world_size=9)
    refused(ConfigError, "for 3 devices.*2 ranks", placement=Placement.of([0, 1, 2, 0, 1, 2, 0, 1], 3))
    refused(ConfigError, "0 to 1", placement=[0, 1, 2, 0, 1, 2, 0, 1])
    refused(ShapeError, "6 experts", placement=Placement.of([0, 1] * 3, 2))
    refused(ShapeError, "3 layers", placement=[[0, 1] * 4] * 3)
    refused(ConfigError, "form = 'batch'.*data, shared", form="batch")
    shard(tiny_model("olmoe"), ranks_of(9)[8], placement=Placement.of([0, 1, 2, 3, 4, 5, 6, 8], 9))


def test_a_dense_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="no mixture-of-experts layer"):
        shard(torch.nn.Linear(2, 2), ranks_of(2)[0])


def test_experts_in_another_form_are_refused():
    def of_experts(change):
        return lambda model: [change(site.experts) for site in find_sites(model)]

    def quantise(experts):
        del experts.down_proj
        experts.register_parameter(
            "down_proj", torch.nn.Parameter(torch.zeros(8, 4, dtype=torch.uint8), requires_grad=False)
        )

    def reshape(experts):
        experts.down_proj = torch.nn.Parameter(experts.down_proj.detach().flatten(1).T.contiguous())

    def replace_forward(experts):
        experts.forward = experts.forward

    refused(UnsupportedModelError, r"layers\.0\..*down_proj is quantised", change=of_experts(quantise))
    refused(UnsupportedModelError, "down_proj has shape .* each of 8 experts", change=of_experts(reshape))
    refused(UnsupportedModelError, "forward was replaced", change=of_experts(replace_forward))


def test_a_model_is_shared_out_once():
    model = tiny_model("olmoe")
    shard(model, ranks_of(2)[0])
    for again in (model, copy.deepcopy(model), model.model):
        with pytest.raises(ConfigError, match="not sharded yet"):
            shard(again, ranks_of(2)[0])


def test_a_shared_out_model_runs_only_attached():
    model, inputs = tiny_model("olmoe"), tiny_inputs("olmoe")
    parallel = shard(model, Group.alone())
    with torch.no_grad():
        with pytest.raises(AttachError, match="parallel="):
            model(**inputs)
        with evenmoe.attach(model, TokenDrop(gamma=1.0), parallel=parallel) as attached:
            model(**inputs)
            assert gather_loads(attached).total.before_LE.sum() > 0
        with pytest.raises(AttachError, match="parallel="):
            model(**inputs)


def test_an_attachment_made_before_cannot_run_the_experts():
    model, inputs = tiny_model("olmoe"), tiny_inputs("olmoe")
    with evenmoe.attach(model, TokenDrop(gamma=1.0)), torch.no_grad():
        shard(model, ranks_of(2)[0])
        with pytest.raises(AttachError, match="parallel="):
            model(**inputs)


def test_gradients_are_refused_under_attach():
    model, inputs = tiny_model("olmoe"), tiny_inputs("olmoe")
    parallel = shard(model, Group.alone())
    with (
        evenmoe.attach(model, TokenDrop(gamma=1.0), parallel=parallel),
        pytest.raises(ConfigError, match="no_grad"),
    ):
        model(**inputs)


def test_loads_are_gathered_only_over_ranks_that_ran_alike():
    whole = tiny_model("olmoe")
    with (
        evenmoe.attach(whole, TokenDrop(gamma=1.0)) as attached,
        pytest.raises(ConfigError, match="parallel"),
    ):
        gather_loads(attached)

    def worker(group):
        model, inputs = tiny_model("olmoe"), tiny_inputs("olmoe")
        parallel = shard(model, group)
        with evenmoe.attach(model, TokenDrop(gamma=1.0), parallel=parallel) as attached, torch.no_grad():
            model(**inputs)
            if group.rank == 1:
                attached.reset_loads()
            with pytest.raises(ShapeError, match="different numbers of steps"):
                gather_loads(attached)
        return True

    assert run_ranks(2, worker) == [True, True]
