"""Tokens as text piece by piece, and stop strings: beside the slow way, which has the whole text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.models.bundled import bundled_tokenizer
from evenmoe.serving.transformers.server.texts import Detokenizer, StopStrings


@pytest.fixture(scope="module")
def tokenizer():
    return bundled_tokenizer("text")


def told(tokenizer, ids, sizes):
    """The pieces that come when tokens come `sizes` at a time."""
    detokenizer, pieces, at = Detokenizer(tokenizer), [], 0
    while at < len(ids):
        size = next(sizes)
        pieces.append(detokenizer.add(ids[at : at + size]))
        at += size
    return [*pieces, detokenizer.flush()]


@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 4095), max_size=30), size=st.integers(1, 4))
def test_the_pieces_are_the_text_of_all_tokens(tokenizer, ids, size):
    pieces = told(tokenizer, ids, iter(lambda: size, None))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@settings(max_examples=60)
@given(text=st.text(alphabet="aé€😀 \n", max_size=12))
def test_a_character_of_several_tokens_is_told_whole(tokenizer, text):
    pieces = told(tokenizer, tokenizer.encode(text), iter(lambda: 1, None))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def slow_cut(text, stops):
    """The text before the stop string that is complete first; of several, before the one that begins first."""
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@settings(max_examples=300)
@given(
    pieces=st.lists(st.text(alphabet="ab", max_size=4), max_size=8),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_as_if_the_text_were_whole(pieces, stops):
    stop, out = StopStrings(stops), ""
    for piece in pieces:
        out += stop.add(piece)
        assert "".join(pieces).startswith(out)
    out += stop.flush()
    assert (out, stop.found) == slow_cut("".join(pieces), stops)


def test_what_may_begin_a_stop_string_waits():
    stop = StopStrings(["\n\n"])
    assert [stop.add("a\n"), stop.add("b"), stop.add("\n"), stop.add("\nc"), stop.add("d")] == [
        "a",
        "\nb",
        "",
        "",
        "",
    ]
    assert stop.found
