"""Requests: which device a row is on, when a policy acts, tags, image tokens, isolation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evenmoe
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.models.batch import CallReader, rows_to_devices
from evenmoe.models.padding import SpecialTokens
from evenmoe.routing import Baseline, TokenDrop
from tests.models.attach_reference import forward, ids_of, tiny_model, watch


@settings(max_examples=100)
@given(st.integers(1, 12), st.integers(1, 9), st.data())
def test_rows_are_contiguous_even_and_unmoved_by_empty_ones(num_rows, num_devices, data):
    devices = rows_to_devices(num_rows, None, num_devices).tolist()
    sizes = [devices.count(d) for d in range(num_devices)]
    assert devices == sorted(devices)
    assert sizes == [num_rows // num_devices + (d < num_rows % num_devices) for d in range(num_devices)]
    occupied = data.draw(st.lists(st.booleans(), min_size=num_rows, max_size=num_rows))
    full = rows_to_devices(sum(occupied), None, num_devices).tolist() if any(occupied) else []
    some = rows_to_devices(num_rows, torch.tensor(occupied), num_devices)
    assert some[torch.tensor(occupied)].tolist() == full
    assert some.min() >= 0
    assert some.max() < num_devices


def test_an_assignment_is_used_within_its_block_only():
    model, ids = tiny_model("olmoe"), ids_of(rows=4, length=12)
    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        with attached.assign([1, 0, 1, 0]):
            mixed = forward(model, ids)
        usual = forward(model, ids)
        with attached.assign([0, 0, 1, 1]):
            assert torch.equal(forward(model, ids), usual)
    assert steps[0].tokens.device_T.tolist() == [1] * 12 + [0] * 12 + [1] * 12 + [0] * 12
    assert steps[2].tokens.device_T.tolist() == [0] * 24 + [1] * 24
    assert not torch.equal(mixed, usual)


def test_assignments_and_tags_that_do_not_fit_are_refused():
    model, ids = tiny_model("olmoe"), ids_of(rows=4, length=12)
    with evenmoe.attach(model, Baseline(), num_devices=2) as attached:
        with pytest.raises(ConfigError, match="num_devices - 1 = 1"), attached.assign([0, 2, 0, 0]):
            pass
        with pytest.raises(ConfigError, match="tags"), attached.tagged("code"):
            pass
        with pytest.raises(ShapeError, match="3 rows, the batch has 4"), attached.assign([0, 0, 1]):
            forward(model, ids)
        with pytest.raises(ShapeError, match="3 tags for a batch of 4"), attached.tagged(["a", "b", "c"]):
            forward(model, ids)
        forward(model, ids)


def test_tags_sum_to_the_total():
    model, ids = tiny_model("mixtral"), ids_of(rows=4, length=12)
    ids[1, 8:] = 0
    mask = (ids != 0).long()
    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        with attached.tagged(["code", "law", "code", "law"]):
            forward(model, ids, attention_mask=mask)
        with attached.tagged(["law", "law", "poem", "poem"]):
            forward(model, ids, attention_mask=mask)
    loads = attached.loads
    assert set(loads.by_tag) == {"code", "law", "poem"}
    for name, total in loads.total.arrays().items():
        np.testing.assert_allclose(sum(c.arrays()[name] for c in loads.by_tag.values()), total, rtol=1e-12)
    rows = torch.tensor([0, 2])
    for layer, step in enumerate(steps[:2]):
        part = torch.isin(step.tokens.row_T, rows)
        assert loads.by_tag["code"].before_LE[layer].tolist() == step.chosen_TE[part].sum(0).tolist()
        assert loads.by_tag["code"].after_LE[layer].tolist() == step.kept_TE[part].sum(0).tolist()
    assert loads.by_tag["law"].tokens_L.tolist() == [8 + 12 + 12 + 8] * 2


def test_counts_by_hand():
    model, ids = tiny_model("olmoe"), ids_of(rows=2, length=24)
    with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        forward(model, ids)
        forward(model, ids[:1])
        attached.reset_loads()
        steps.clear()
        forward(model, ids)
        forward(model, ids.flip(0))
    loads = attached.loads
    for layer in range(2):
        mine = [step for step in steps if step.layer == layer]
        assert loads.total.before_LE[layer].tolist() == sum(s.chosen_TE.sum(0) for s in mine).tolist()
        assert loads.total.after_LE[layer].tolist() == sum(s.kept_TE.sum(0) for s in mine).tolist()
        assert loads.total.gate_mass_kept_L[layer] == pytest.approx(
            sum(float(s.scores_TE[s.kept_TE & s.chosen_TE].double().sum()) for s in mine)
        )
        assert loads.total.tokens_without_expert_L[layer] == sum(int((~s.kept_TE.any(1)).sum()) for s in mine)
        peaks = [max(int(s.chosen_TE[:, half].sum()) for half in (slice(0, 4), slice(4, 8))) for s in mine]
        assert loads.peaks.device_before_L[layer] == sum(peaks)
        assert loads.peaks.expert_after_L[layer] == sum(int(s.kept_TE.sum(0).max()) for s in mine)
    assert loads.peaks.steps_L.tolist() == [2, 2]
    assert loads.source == "OlmoeForCausalLM"


def test_a_placement_decides_the_device_loads():
    model, ids = tiny_model("olmoe"), ids_of()
    placement = [[0, 1] * 4, [1, 1, 0, 0] * 2]
    with evenmoe.attach(model, Baseline(), num_devices=2, placement=placement) as attached:
        forward(model, ids)
    before = attached.loads.total.before_LE
    for layer in range(2):
        expected = max(before[layer][np.array(placement[layer]) == d].sum() for d in range(2))
        assert attached.loads.peaks.device_before_L[layer] == expected


def generated(model, ids, scope="local", **options):
    with (
        evenmoe.attach(model, TokenDrop(gamma=0.5, scope=scope), **options) as attached,
        watch(attached) as steps,
    ):
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, eos_token_id=-1
        )
    assert attached.loads.peaks.steps_L.tolist() == [4, 4]
    return [(step.tokens.decode, step.applied) for step in steps[::2]]


def test_the_decode_rule():
    model = tiny_model("olmoe")
    eight, three = ids_of(rows=8, length=6), ids_of(rows=3, length=6)
    assert generated(model, eight) == [(False, True)] + [(True, True)] * 3
    assert generated(model, three) == [(False, True)] + [(True, False)] * 3  # 3 tokens, fewer than E / K = 4
    assert generated(model, eight, num_devices=2) == [(False, True)] + [(True, True)] * 3
    assert (
        generated(model, eight, num_devices=3) == [(False, True)] + [(True, False)] * 3
    )  # fewer than 4 each
    assert generated(model, eight, num_devices=3, scope="global") == [(False, True)] + [(True, True)] * 3
    assert generated(model, three, min_tokens=3) == [(False, True)] + [(True, True)] * 3
    assert generated(model, eight, phases="prefill") == [(False, True)] + [(True, False)] * 3
    assert generated(model, eight, phases="decode") == [(False, False)] + [(True, True)] * 3
    assert generated(model, eight, min_tokens=49) == [(False, False)] + [(True, False)] * 3


def test_a_call_that_passes_is_untouched_but_counted():
    model, ids = tiny_model("olmoe"), ids_of()
    plain = forward(model, ids)
    with evenmoe.attach(model, TokenDrop(gamma=0.5), phases="decode") as attached:
        assert torch.equal(forward(model, ids), plain)
    total = attached.loads.total
    assert total.before_LE.sum() == 2 * 2 * ids.numel()
    assert (total.after_LE == total.before_LE).all()


def test_baseline_only_counts():
    model, ids = tiny_model("mixtral"), ids_of()
    plain = forward(model, ids)
    with evenmoe.attach(model, Baseline(), num_devices=8) as attached:
        assert torch.equal(forward(model, ids), plain)
    assert attached.loads.total.kept_L.tolist() == [2 * ids.numel()] * 2
    assert attached.loads.gate_mass_kept == 1.0


def test_image_tokens_are_dropped_first_or_last():
    model, ids = tiny_model("qwen3_vl_moe"), ids_of()
    ids[:, 4:28] = model.config.image_token_id
    inner = model.model.language_model
    dropped = {}
    for modality in ("image-first", "text-first"):
        with (
            evenmoe.attach(model, TokenDrop(gamma=0.5, modality=modality)) as attached,
            watch(attached) as steps,
        ):
            forward(inner, ids)
        image = steps[0].tokens.image_T
        assert image.sum() == 48
        lost = steps[0].chosen_TE & ~steps[0].kept_TE
        dropped[modality] = int(lost[image].sum())
    assert dropped["image-first"] > dropped["text-first"]


@pytest.mark.parametrize(("isolation", "may_lend"), [("request", True), ("strict", False)])
def test_isolation_protects_a_request_from_its_neighbour(isolation, may_lend):
    model = tiny_model("olmoe")
    mine, other = ids_of(rows=1, length=32, seed=1), ids_of(rows=1, length=32, seed=2)
    policy = TokenDrop(gamma=1.0, isolation=isolation)

    def first_layer(ids):
        with evenmoe.attach(model, policy) as attached, watch(attached) as steps:
            forward(model, ids)
        return steps[0].kept_TE[:32]

    alone = first_layer(mine)
    for neighbour in (mine, other, other.flip(1)):
        beside = first_layer(torch.cat([mine, neighbour]))
        assert not (alone & ~beside).any()
        if not may_lend:
            assert torch.equal(alone, beside)


def test_calling_an_inner_model_is_seen_too():
    model, ids = tiny_model("olmoe"), ids_of(rows=2, length=12)
    ids[0, 8:] = 0
    with evenmoe.attach(model, Baseline()) as attached, torch.no_grad():
        with attached.tagged(["a", "b"]):
            model.model(input_ids=ids, attention_mask=(ids != 0).long())
        model.model.layers[0].mlp(torch.zeros(1, 5, 32))
        with pytest.raises(ShapeError, match="do not belong to a batch"), attached.tagged(["a", "b"]):
            model.model.layers[0].mlp(torch.zeros(1, 5, 32))
    assert attached.loads.by_tag["a"].tokens_L.tolist() == [8, 8]
    assert attached.loads.total.tokens_L.tolist() == [25, 20]


def test_arguments_by_position_and_embeddings():
    model, ids = tiny_model("olmoe"), ids_of(rows=2, length=12)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with evenmoe.attach(model, Baseline()) as attached, torch.no_grad():
        model(ids, mask)
        model(inputs_embeds=model.model.embed_tokens(ids), attention_mask=mask)
    assert attached.loads.total.tokens_L.tolist() == [36, 36]


def test_continuous_batching_keeps_requests_apart():
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = tiny_model("olmoe")
    prompts = [ids_of(1, n, seed=n)[0].tolist() for n in (12, 20, 9)]
    generation = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(
        num_blocks=64, page_size=16, max_batch_tokens=256, max_requests_per_batch=4, use_cuda_graph=False
    )

    def run():
        out = model.generate_batch(
            prompts, generation_config=generation, continuous_batching_config=batching, progress_bar=False
        )
        return sorted(tuple(result.generated_tokens) for result in out.values())

    plain = run()
    with evenmoe.attach(model, TokenDrop(gamma=float("inf"), isolation="strict"), num_devices=2):
        assert run() == plain
    policy = TokenDrop(gamma=0.5, isolation="strict")
    with evenmoe.attach(model, policy, num_devices=3) as attached, watch(attached) as steps:
        run()
    first, decode = steps[0].tokens, steps[2].tokens
    assert sorted(first.row_T.bincount().tolist()) == [9, 12, 20]
    assert first.device_T.tolist() == first.row_T.tolist()
    assert not first.decode
    assert decode.decode
    assert decode.row_T.tolist() == [0, 1, 2]
    for row, count in enumerate(first.row_T.bincount().tolist()):
        assert steps[0].kept_TE[first.row_T == row].sum(0).max() <= -(-count // 8)


def test_packed_requests_and_what_follows_them():
    reader = CallReader(tiny_model("olmoe"), SpecialTokens(pad=0, begin=(), end=(), image=()))
    given = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 0, 0]]),
        "cu_seq_lens_q": torch.tensor([0, 3, 4]),
        "position_ids": torch.tensor([[0, 1, 2, 7, 0, 0]]),
    }
    batch = reader.read((), given)
    assert batch.row_of_token(6).tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.real_T.tolist() == [True] * 4 + [False] * 2
    assert not batch.decode
