"""Padding is found, and changes nothing for the real tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evenmoe
from evenmoe.errors import ShapeError
from evenmoe.models.padding import SpecialTokens, real_positions
from evenmoe.routing import Baseline, Fill, TokenDrop
from tests.models.attach_reference import forward, ids_of, tiny_model, watch

PAD = 0


def tokens(pad=PAD, begin=(1,), end=(2,)):
    return SpecialTokens(pad=pad, begin=begin, end=end, image=())


def found(rows, mask=None, decode=False, **kwargs):
    ids = torch.tensor(rows)
    real = real_positions(mask, ids, tokens(**kwargs), ids.shape[1], decode)
    return torch.ones_like(ids).tolist() if real is None else real.int().tolist()


def test_only_leading_and_trailing_runs_are_padding():
    assert found([[0, 0, 5, 0, 6], [5, 6, 0, 7, 0], [5, 6, 7, 8, 9], [0, 0, 0, 0, 0]]) == [
        [0, 0, 1, 1, 1],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ]


def test_a_pad_id_that_ends_or_begins_texts_keeps_one():
    assert found([[5, 6, 0, 0, 0], [0, 0, 5, 6, 7], [0, 0, 0, 0, 0]], end=(0,)) == [
        [1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ]
    assert found([[0, 0, 5, 6, 0]], begin=(0,)) == [[0, 1, 1, 1, 0]]
    assert found([[0]], begin=(0,)) == [[1]]


def test_a_mask_decides_and_may_cover_the_cache():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 1]])
    assert found([[5, 0, 6], [0, 0, 7]], mask=mask) == [[1, 1, 1], [1, 0, 1]]
    with pytest.raises(ShapeError, match="2 columns for 3 positions"):
        found([[5, 0, 6], [0, 0, 7]], mask=mask[:, :2])


def test_a_finished_row_of_a_decode_step_is_padding():
    assert found([[5], [0]], mask=torch.ones(2, 4), decode=True) == [[1], [0]]
    assert found([[5], [0]], decode=True) == [[1], [0]]
    assert found([[5], [0]], pad=None, decode=True) == [[1], [1]]


def test_the_pad_id_comes_from_the_configuration_unless_given():
    model = tiny_model("qwen3_vl_moe")
    model.config.text_config.pad_token_id = None
    model.generation_config.pad_token_id = 7
    assert SpecialTokens.of(model, None).pad == 7
    assert SpecialTokens.of(model, 3).pad == 3
    model.config.text_config.pad_token_id = 5
    assert SpecialTokens.of(model, None).pad == 5
    assert SpecialTokens.of(model, None).image == (120, 121)


def kept_of_row(steps, row):
    return [step.kept_TE[step.tokens.row_T == row][step_real(step, row)] for step in steps]


def step_real(step, row):
    in_row = step.tokens.row_T == row
    return (
        torch.ones(int(in_row.sum()), dtype=torch.bool)
        if step.tokens.real_T is None
        else step.tokens.real_T[in_row]
    )


def run(model, ids, policy, **kwargs):
    with evenmoe.attach(model, policy, num_devices=2) as attached, watch(attached) as steps:
        logits = forward(model, ids, **kwargs)
    return steps, logits, attached.loads


@pytest.mark.parametrize(
    "policy", [TokenDrop(gamma=1.0), Fill(gamma=1.0), TokenDrop(gamma=1.0, keep="first")]
)
@pytest.mark.parametrize("name", ["olmoe", "mixtral", "llama4_text", "jetmoe", "deepseek_v3"])
@pytest.mark.parametrize("side", ["left", "right", "row"])
def test_padding_changes_no_real_token(name, policy, side):
    model, ids = tiny_model(name), ids_of(rows=3, length=16)
    steps, logits, loads = run(model, ids, policy, attention_mask=torch.ones_like(ids))
    pad = torch.full((3, 5), PAD)
    if side == "row":
        padded = torch.cat([ids, torch.zeros_like(ids[:1])])
        mask = torch.ones_like(padded)
        mask[3] = 0
    else:
        padded = torch.cat([pad, ids] if side == "left" else [ids, pad], dim=1)
        mask = (padded != PAD).long()
    options = {"attention_mask": mask}
    if side == "left":  # without them, position embeddings would count the padding
        options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    padded_steps, padded_logits, padded_loads = run(model, padded, policy, **options)
    for row in range(3):
        for kept, padded_kept in zip(kept_of_row(steps, row), kept_of_row(padded_steps, row), strict=True):
            assert torch.equal(kept, padded_kept)
        torch.testing.assert_close(padded_logits[row][mask[row].bool()], logits[row], rtol=1e-4, atol=1e-4)
    assert (padded_loads.total.before_LE == loads.total.before_LE).all()
    assert (padded_loads.total.after_LE == loads.total.after_LE).all()
    assert padded_loads.total.tokens_L.tolist() == [48, 48]


def test_right_padding_without_a_mask_is_found_by_the_pad_id():
    """As lm-eval's log-likelihood calls come."""
    model, ids = tiny_model("olmoe"), ids_of(rows=3, length=16)
    padded = torch.cat([ids, torch.full((3, 7), PAD)], 1)
    for given_pad, known in ((None, True), (PAD, True), (-1, False)):
        with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2, pad_token_id=given_pad) as attached:
            logits = forward(model, padded)
        assert attached.loads.total.tokens_L[0] == (48 if known else 69)
        _, expected, loads = run(model, ids, TokenDrop(gamma=1.0))
        assert torch.allclose(logits[:, :16], expected, atol=1e-4) == known
        assert (attached.loads.total.after_LE == loads.total.after_LE).all() == known


def test_generation_counts_no_padding_and_no_finished_row():
    model, ids = tiny_model("olmoe"), ids_of(rows=2, length=8)
    ids[0, :3] = PAD
    mask = (ids != PAD).long()
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    stop = int(plain[0, 10])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": stop, "pad_token_id": PAD}
    with evenmoe.attach(model, Baseline()) as attached:
        out = model.generate(ids, attention_mask=mask, **options)
    new = out[:, 8:]
    fed = sum(int((row[:-1] != PAD).sum()) for row in new)
    assert fed < new[:, :-1].numel()
    assert attached.loads.total.tokens_L.tolist() == [int(mask.sum()) + fed] * 2


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from([0, 5, 6]), min_size=6, max_size=6), min_size=1, max_size=4))
def test_runs_against_a_loop(rows):
    expected = []
    for row in rows:
        inside = [i for i, token in enumerate(row) if token != PAD]
        first, last = (inside[0], inside[-1]) if inside else (len(row), -1)
        expected.append([int(first <= i <= last) for i in range(len(row))])
    assert found(rows) == expected


def test_a_mask_told_beside_the_call_counts_as_one_given_to_it():
    model = tiny_model("olmoe")
    ids = ids_of(3, 8)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] + [0] * 7])
    after = []
    for told in (False, True):
        with evenmoe.attach(model, TokenDrop(gamma=1.0), num_devices=2, min_tokens=1) as attached:
            if told:
                with attached.masked(mask.bool()):
                    model(input_ids=ids)
            else:
                model(input_ids=ids, attention_mask=mask)
            after.append(attached.loads.total)
    assert after[0].tokens_L.tolist() == after[1].tokens_L.tolist() == [14] * len(after[0].tokens_L)
    assert (after[0].before_LE == after[1].before_LE).all()
    assert (after[0].after_LE == after[1].after_LE).all()


def test_a_mask_of_another_shape_is_refused_and_the_calls_own_goes_first():
    model = tiny_model("olmoe")
    ids = ids_of(2, 6)
    own = torch.tensor([[1] * 6, [1] * 2 + [0] * 4])
    with evenmoe.attach(model, Baseline(), num_devices=1) as attached:
        with attached.masked(torch.ones(2, 5)), pytest.raises(ShapeError, match=r"\[2, 5\].*\[2, 6\]"):
            model(input_ids=ids)
        with attached.masked(torch.ones(2, 6)):
            model(input_ids=ids, attention_mask=own)
        assert attached.loads.total.tokens_L.max() == 8
