"""What attention metadata says of a step's requests."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.serving.vllm.steps import step_of
from tests.serving.vllm.engines import metadata, split_metadata

ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=8)


@given(ROWS, st.integers(0, 3), st.integers(0, 5))
def test_rows_and_phases_are_told_and_padding_is_none_of_them(rows, padded_rows, padded_tokens):
    contexts, lengths = [row[0] for row in rows], [row[1] for row in rows]
    num_tokens = sum(lengths) + padded_tokens
    step = step_of(metadata(contexts, lengths, padded_rows=padded_rows), num_tokens)
    assert (list(step.context_B), list(step.length_B)) == (contexts, lengths)
    assert step.num_tokens == sum(lengths)
    batch = step.batch
    real = [True] * sum(lengths) + [False] * padded_tokens
    assert (batch.real_T is None and not padded_tokens) or batch.real_T.tolist() == real
    row_T = [row for row, length in enumerate(lengths) for _ in range(length)]
    assert batch.row_of_token(num_tokens)[: sum(lengths)].tolist() == row_T
    decode = [context > 0 and length == 1 for context, length in rows]
    assert batch.decode == all(decode)
    if all(decode) or not any(decode):
        assert batch.decode_T is None
    else:
        assert batch.decode_T.tolist() == [decode[row] for row in row_T] + [False] * padded_tokens


@given(ROWS)
def test_metadata_that_is_split_by_phase_says_the_same(rows):
    decoding = [row for row in rows if row[1] == 1]
    ordered = decoding + [row for row in rows if row[1] > 1]
    contexts, lengths = [row[0] for row in ordered], [row[1] for row in ordered]
    split = step_of(split_metadata(contexts, lengths, len(decoding)), sum(lengths))
    plain = step_of(metadata(contexts, lengths), sum(lengths))
    assert (split.context_B, split.length_B) == (plain.context_B, plain.length_B)
    assert split.batch.decode == plain.batch.decode
    assert str(split.batch.decode_T) == str(plain.batch.decode_T)


@pytest.mark.parametrize("nothing", [None, {}, {"layer": None}, {"layer": object()}])
def test_a_step_without_requests_is_none(nothing):
    assert step_of(nothing, 8) is None


def test_a_new_prompt_of_one_token_is_no_decode():
    step = step_of(metadata([0, 7], [1, 1]), 2)
    assert not step.batch.decode
    assert torch.equal(step.batch.decode_T, torch.tensor([False, True]))
