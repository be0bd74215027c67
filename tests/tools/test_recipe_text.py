"""The recipe of the bundled text model: gathering, cleaning and splitting text."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.tools.tiny_recipe import TINY, tiny_source
from tools.errors import RecipeError
from tools.text_model.arithmetic import FORMS, arithmetic_documents
from tools.text_model.corpus import cut_at_passage, read_texts, split_domain, write_corpus, write_texts
from tools.text_model.document import Document, name_fraction
from tools.text_model.licences import licence_stanza, page_comments, translators
from tools.text_model.markup import html_to_text, squeeze_blank_lines, troff_to_text
from tools.text_model.overlap import drop_shared_passages, run_hashes, shared_fraction, sorted_run_hashes
from tools.text_model.packages import Package
from tools.text_model.sources import wordnet_entry

# --- arithmetic ---

OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip


def evaluate(node: ast.expr) -> int:
    """The value of a whole-number expression."""
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](evaluate(node.left), evaluate(node.right))
    if isinstance(node, ast.UnaryOp):
        return -evaluate(node.operand)
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int)
    return node.value


def check_problem(line: str) -> str:
    """Work out the answer another way than the generator does; return which form the line has."""
    numbers = [int(number) for number in re.findall(r"-?\d+", line)]
    if match := re.fullmatch(r"(\d+) divided by (\d+) is (\d+), remainder (\d+)", line):
        a, b, quotient, remainder = map(int, match.groups())
        assert quotient * b + remainder == a
        assert 0 <= remainder < b
        return "division"
    if " mod " in line:
        assert (numbers[0] - numbers[2]) % numbers[1] == 0
        assert 0 <= numbers[2] < numbers[1]
        return "modulo"
    if line.startswith("gcd"):
        a, b, divisor = numbers
        assert [d for d in range(1, min(a, b) + 1) if a % d == b % d == 0][-1] == divisor
        return "gcd"
    if line.startswith("sort"):
        before, after = (side.split() for side in line.removeprefix("sort ").split(" -> "))
        assert sorted(before) == sorted(after)
        assert [int(x) for x in after] == sorted(int(x) for x in after)
        return "sort"
    if line.startswith("What"):
        assert numbers[0] * numbers[1] == numbers[2]
        return "price"
    if "buys" in line or "gives away" in line:
        assert numbers[2] == numbers[0] + (numbers[1] if "buys" in line else -numbers[1])
        return "story"
    if "," in line:
        assert len({b - a for a, b in pairwise(numbers)}) == 1
        return "sequence"
    if match := re.fullmatch(r"(\d+) ([<>=]) (\d+)", line):
        a, sign, b = int(match[1]), match[2], int(match[3])
        assert {"<": a < b, ">": a > b, "=": a == b}[sign]
        return "comparison"
    left, right = line.split(" = ")
    assert evaluate(ast.parse(left, mode="eval").body) == int(right)
    return "expression"


def test_every_generated_problem_is_right() -> None:
    documents = list(arithmetic_documents(num_documents=60, held_out_fraction=0.2, seed=3))
    forms = {check_problem(line) for document in documents for line in document.text.split("\n")}
    assert len(forms) == 9
    assert len(FORMS) == 13


def test_no_problem_is_in_both_splits() -> None:
    documents = list(arithmetic_documents(num_documents=200, held_out_fraction=0.2, seed=0))
    lines: dict[bool, set[str]] = {True: set(), False: set()}
    for document in documents:
        lines[name_fraction(document.name) < 0.2].update(document.text.split("\n"))
    assert lines[True]
    assert lines[False]
    assert not lines[True] & lines[False]


def test_arithmetic_is_the_same_for_the_same_seed() -> None:
    first, second, other = (
        [d.text for d in arithmetic_documents(num_documents=5, held_out_fraction=0.1, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == second != other


# --- split and overlap ---


def test_the_split_depends_on_names_alone() -> None:
    source = tiny_source("alpha")
    backwards = replace(source, documents=source.documents[::-1])
    assert split_domain(source, TINY).held_out == split_domain(backwards, TINY).held_out
    assert name_fraction("python/ast.py") == pytest.approx(0.8520510, abs=1e-6)


def test_a_domain_without_held_out_documents_is_refused() -> None:
    source = replace(tiny_source("alpha"), documents=[Document(name="python/ast.py", text="x")])
    with pytest.raises(RecipeError, match="domain 'alpha': 1 training and 0 held-out documents of 1"):
        split_domain(source, TINY)


def test_unexpected_domains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gathered \['alpha'\], but the recipe trains \['alpha', 'beta'\]"):
        write_corpus([tiny_source("alpha")], TINY, tmp_path)


def test_run_hashes_ignore_case_and_punctuation() -> None:
    assert (run_hashes("One, two: THREE!", 2) == run_hashes("one two three", 2)).all()
    assert len(run_hashes("one two three", 3)) == 1
    assert len(run_hashes("one two", 3)) == 0


def test_run_hashes_find_what_the_slow_way_finds() -> None:
    rng = np.random.default_rng(0)
    train, held_out = (list(map(str, rng.integers(0, 4, 300))) for _ in range(2))
    runs = {tuple(train[i : i + 5]) for i in range(len(train) - 4)}
    expected = {tuple(held_out[i : i + 5]) for i in range(len(held_out) - 4)}
    share = shared_fraction([" ".join(held_out)], sorted_run_hashes([" ".join(train)], 5), 5)
    assert share == pytest.approx(len(runs & expected) / len(expected))


def test_passages_that_training_holds_are_dropped() -> None:
    hashes = sorted_run_hashes(["a b c d e f", "p q r s"], 4)
    text = "one two three\n\nx a b c d y\n\nfour\n\np q\n\nr s\n\nfive"
    cleaned = drop_shared_passages(text, hashes, 4, "\n\n")
    assert cleaned == "one two three\n\nfour\n\np q\n\nfive"  # `r s` would complete the run `p q r s`
    assert shared_fraction([cleaned], hashes, 4) == 0.0


def test_the_shipped_text_shares_no_run_with_training(tmp_path: Path) -> None:
    sources = [tiny_source("alpha"), tiny_source("beta")]
    copied = sources[0].documents[0].text.split("\n\n")[0]
    sources = [
        replace(s, documents=[Document(name=d.name, text=f"{d.text}\n\n{copied}") for d in s.documents])
        for s in sources
    ]
    facts = write_corpus(sources, TINY, tmp_path)
    for domain in TINY.domains:
        assert facts[domain]["shared_before"] > 0
        assert facts[domain]["shared_after"] == 0
        assert copied not in (tmp_path / "heldout" / f"{domain}.txt").read_text()


def test_texts_are_read_back_as_written(tmp_path: Path) -> None:
    texts = ["one\n\ntwo", "grün\n", "three"]
    assert write_texts(texts, tmp_path / "texts.txt") == (tmp_path / "texts.txt").stat().st_size
    assert read_texts(tmp_path / "texts.txt") == texts


def test_long_documents_are_cut_at_a_passage() -> None:
    assert cut_at_passage("aaa\n\nbbb\n\nccc", 11, "\n\n") == "aaa\n\nbbb"
    assert cut_at_passage("aaaaaa\n\nb", 2, "\n\n") == "aaaaaa"


# --- markup ---


def test_troff_becomes_plain_text() -> None:
    page = r"""'\" t
.\" a comment
.TH LS 1 "Mai 2023"
.SH BEZEICHNUNG
ls \- Verzeichnisinhalte \fBauflisten\fP
.PP
.BR ls (1)
.B "fett gedruckt"
.TS
l l.
a	b
.TE
.IP \(bu 4
Punkt\e1 \*(Aq\s-1klein\s0\&.
"""
    assert troff_to_text(page) == (
        "BEZEICHNUNG\n\nls - Verzeichnisinhalte auflisten\n\nls(1)\nfett gedruckt\n\n-\nPunkt\\1 klein."
    )


def test_mdoc_pages_are_left_out() -> None:
    assert troff_to_text(".Dd May 1, 2020\n.Sh NAME\n.Nm x\n") is None


def test_html_becomes_plain_text() -> None:
    page = """<html><head><title>T</title></head><body><div class="navheader"><table><tr><th>Prev</th></tr>
    </table><hr /></div><h2>Title</h2><p>Some <b>bold</b>
    text &lt;here&gt;.</p><pre class="p">  SELECT 1;
    FROM x;</pre><table><tr><td>a</td><td>b</td></tr></table></body></html>"""
    assert html_to_text(page) == "Title\n\nSome bold text <here>.\n\n  SELECT 1;\n    FROM x;\n\na | b"


def test_blank_lines_are_squeezed() -> None:
    assert squeeze_blank_lines("\n\na  \n\n\n\nb\f\r\n") == "a\n\nb"


def test_a_wordnet_line_becomes_an_entry() -> None:
    line = '00002137 03 n 02 abstraction 0 abstract_entity 0 001 @ 00001740 n 0000 | a general concept; "an idea"  '
    assert wordnet_entry(line) == 'abstraction, abstract entity (noun): a general concept; "an idea"'


# --- licences ---


def package_with_copyright(root: Path, text: str) -> Package:
    """A package that holds nothing but its copyright file."""
    package = Package(name="pages", version="1", root=root)
    package.copyright_file.parent.mkdir(parents=True)
    package.copyright_file.write_text(text)
    return package


def test_the_licence_text_is_found(tmp_path: Path) -> None:
    package = package_with_copyright(
        tmp_path, "Files: *\nLicense: Go\n\nLicense: Go\n One.\n .\n Two.\n\nLicense: X\n"
    )
    assert licence_stanza(package, "Go") == "One.\n\nTwo.\n"
    with pytest.raises(RecipeError, match="holds no text of the licence 'X'"):
        licence_stanza(package, "X")


def test_the_notices_of_a_page_are_found(tmp_path: Path) -> None:
    comments = ("-*- coding: UTF-8 -*-", "Copyright 2013 A. Uthor", "GPL")
    page = "".join(f'.\\" {comment}\n' for comment in comments) + '.TH TAR 1\n.\\" Copyright of an example\n'
    assert page_comments(page) == "Copyright 2013 A. Uthor\nGPL"
    package = package_with_copyright(
        tmp_path,
        "Files: *\nCopyright: © All\n\nFiles: po/de/man1/ar.1.po\n  po/de/man1/tar.1.po\nCopyright: © B\n  © C\n",
    )
    assert translators(package, "de", "tar.1") == "Translation:\n  © B\n  © C"
    assert translators(package, "fr", "tar.1") == ""
