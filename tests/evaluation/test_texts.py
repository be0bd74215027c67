"""Windows are what they say: real stretches of the text, evenly shared, with exact byte counts."""

import numpy as np
import pytest

from evenmoe.errors import ConfigError
from evenmoe.evaluation.batches import make_batches, plan_batches
from evenmoe.evaluation.texts import cut_windows, num_fitting, read_texts


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def test_windows_interleave_domains_and_share_evenly(text_files, tokenizer):
    windows = cut_windows(read_texts(text_files), tokenizer, num_windows=5, window_tokens=16)
    assert [window.domain for window in windows] == ["numbers", "words", "numbers", "words", "numbers"]
    assert all(len(window.ids_S) == 16 for window in windows)


def test_windows_do_not_overlap_and_stand_in_the_text(text_files, tokenizer):
    texts = read_texts(text_files[1:])
    windows = cut_windows(texts, tokenizer, num_windows=8, window_tokens=32)
    decoded = [tokenizer.decode(window.ids_S) for window in windows]
    assert all(piece in texts["words"] for piece in decoded)
    all_ids = tokenizer(texts["words"])["input_ids"]
    assert np.array_equal(windows[0].ids_S, all_ids[:32])


def test_bytes_are_those_of_the_predicted_tokens(text_files, tokenizer):
    text = "größer als früher, über Äpfel; " * 200
    for window in cut_windows({"umlauts": text}, tokenizer, num_windows=4, window_tokens=64):
        exact = sum(len(piece) for piece in _token_bytes(tokenizer, window.ids_S[1:]))
        assert abs(window.num_bytes - exact) <= 1, "a character may be cut at each end of a window"


def _token_bytes(tokenizer, ids):
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    for token in tokenizer.convert_ids_to_tokens(list(ids)):
        yield bytes(byte_of[char] for char in token)


def test_too_little_text_is_an_error_that_says_how_much_there_is(tokenizer):
    with pytest.raises(ConfigError, match=r"at most the \d+ tokens of 'short'"):
        cut_windows({"short": "a few words"}, tokenizer, num_windows=1, window_tokens=64)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "a file that exists"), (b"  \n", "some text"), (b"\xff\xfe\xfa", "UTF-8")]
)
def test_wrong_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "domain.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_texts([path])
    assert "domain.txt" in str(caught.value)


def test_two_files_of_one_name_are_refused(tmp_path, text_files):
    other = tmp_path / "words.txt"
    other.write_text("more words")
    with pytest.raises(ConfigError, match="one file per domain"):
        read_texts([*text_files, other])


def test_batches_hold_every_window_once_and_are_seeded(text_files, tokenizer):
    windows = cut_windows(read_texts(text_files), tokenizer, num_windows=12, window_tokens=16)
    batches = make_batches(windows, 4, "mixed", seed=1)
    assert sorted(id(w) for batch in batches for w in batch) == sorted(map(id, windows))
    again = make_batches(windows, 4, "mixed", seed=1)
    assert [[id(w) for w in b] for b in batches] == [[id(w) for w in b] for b in again]
    assert [[id(w) for w in b] for b in batches] != [
        [id(w) for w in b] for b in make_batches(windows, 4, "mixed", 2)
    ]


def test_by_domain_sorts_the_same_batches(text_files, tokenizer):
    windows = cut_windows(read_texts(text_files), tokenizer, num_windows=12, window_tokens=16)
    mixed, sorted_ = (make_batches(windows, 4, mix, seed=1) for mix in ("mixed", "by-domain"))
    for left, right in zip(mixed, sorted_, strict=True):
        assert {id(w) for w in left} == {id(w) for w in right}
        domains = [w.domain for w in right]
        assert domains == sorted(domains)


def test_batches_must_be_whole_and_mix_known(text_files, tokenizer):
    windows = cut_windows(read_texts(text_files), tokenizer, num_windows=6, window_tokens=16)
    with pytest.raises(ConfigError, match="a divisor of the 6 windows"):
        make_batches(windows, 4, "mixed", 0)
    with pytest.raises(ConfigError, match="mixed, by-domain"):
        make_batches(windows, 3, "shuffled", 0)


@pytest.mark.parametrize(
    ("fitting", "windows", "rows", "planned"),
    [
        (500, None, None, (96, 32)),
        (70, None, None, (64, 32)),
        (7, None, None, (7, 7)),
        (70, None, 20, (60, 20)),
        (70, 48, None, (48, 24)),
        (70, 37, None, (37, 1)),
        (3, 48, 16, (48, 16)),
    ],
)
def test_windows_and_rows_left_open_fit_the_text(fitting, windows, rows, planned):
    assert plan_batches(fitting, windows, rows) == planned


def test_a_text_too_short_for_one_batch_is_an_error():
    with pytest.raises(ConfigError, match="at least 1, but 0 fit"):
        plan_batches(0, None, None)
    with pytest.raises(ConfigError, match="at least 4, but 3 fit"):
        plan_batches(3, None, 4)


def test_all_windows_that_fit_can_be_cut(text_files, tokenizer):
    texts = read_texts(text_files)
    fitting = num_fitting(texts, tokenizer, 32)
    assert len(cut_windows(texts, tokenizer, num_windows=fitting, window_tokens=32)) == fitting
