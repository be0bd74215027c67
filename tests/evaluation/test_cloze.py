"""Cloze items: of the text they claim, without overlap, the same everywhere; neither place nor length answers them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.evaluation.cloze import NUM_CHOICES, NUM_ITEMS, cloze_items
from evenmoe.evaluation.texts import heldout_texts

WORDS = " ".join(f"word{n}" for n in range(400))
DOMAINS = sorted(heldout_texts())


def test_an_item_worked_by_hand():
    text = "a b  c\nd e f g h i j k l m n o p q r s t"
    items = cloze_items("letters", text, num_items=4, context_words=3, continuation_words=2)
    assert [item.context for item in items] == ["a b  c", "f g h", "k l m", "p q r"]
    assert [item.choices[item.gold] for item in items] == ["\nd e", " i j", " n o", " s t"]
    assert sorted(items[0].choices) == ["\nd e", "\ni j", "\nn o", "\ns t"]
    assert [item.item for item in items] == ["letters-0", "letters-1", "letters-2", "letters-3"]


def test_the_items_are_the_same_everywhere():
    items = cloze_items("numbers", WORDS, num_items=12, context_words=5, continuation_words=2)
    assert [item.gold for item in items] == [2, 1, 0, 0, 3, 2, 2, 1, 3, 2, 3, 0]
    assert items[3].choices == (" word105 word106", " word171 word172", " word5 word6", " word38 word39")


@given(st.integers(4, 30), st.integers(1, 8), st.integers(1, 4), st.integers(0, 5))
def test_passages_are_of_the_text_in_order_and_do_not_overlap(
    num_items, context_words, continuation_words, seed
):
    items = cloze_items(
        "numbers",
        WORDS,
        num_items=num_items,
        context_words=context_words,
        continuation_words=continuation_words,
        seed=seed,
    )
    end = 0
    for item in items:
        passage = item.context + item.choices[item.gold]
        start = f"{WORDS} ".index(f"{passage} ")
        assert start >= end
        end = start + len(passage)
        assert len(set(item.choices)) == NUM_CHOICES
        assert {len(choice.split()) for choice in item.choices} == {continuation_words}
        assert len(item.context.split()) == context_words


def test_other_seeds_draw_other_choices_for_the_same_questions():
    one, two = (cloze_items("numbers", WORDS, num_items=12, context_words=5, seed=seed) for seed in (0, 1))
    assert [item.context for item in one] == [item.context for item in two]
    assert [item.choices for item in one] != [item.choices for item in two]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_that_ships_gives_its_items_without_overlap(domain):
    text = heldout_texts()[domain]
    items = cloze_items(domain, text)
    assert len(items) == NUM_ITEMS >= 200
    for item in items:
        assert item.context + item.choices[item.gold] in text
        assert len({re.match(r"\s*", choice)[0] for choice in item.choices}) == 1
    # neither a place nor a length gives the answer away: within four standard deviations of a draw
    allowed = 4 * (0.25 * 0.75 / NUM_ITEMS) ** 0.5
    for place in range(NUM_CHOICES):
        assert abs(sum(item.gold == place for item in items) / NUM_ITEMS - 0.25) < allowed
    for pick in (min, max):
        hits = sum(item.choices.index(pick(item.choices, key=len)) == item.gold for item in items)
        assert abs(hits / NUM_ITEMS - 0.25) < allowed


def test_a_text_that_is_too_short_or_too_plain_is_refused():
    with pytest.raises(ConfigError, match=r"words = 404 .* the 400 of 'numbers'"):
        cloze_items("numbers", WORDS, num_items=101, context_words=3, continuation_words=1)
    with pytest.raises(ConfigError, match="4 different continuations"):
        cloze_items("same", "on and on " * 50, num_items=5, context_words=4, continuation_words=2)
