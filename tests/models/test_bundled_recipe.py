"""The pure parts of the recipe that makes the bundled text model."""

import ast
import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from tools.text_model import __main__ as command
from tools.text_model.arithmetic import FORMS, arithmetic_documents
from tools.text_model.batches import batch_at, sequence_at
from tools.text_model.card import write_card
from tools.text_model.corpus import cut_at_passage, read_texts, split_domain, write_corpus, write_texts
from tools.text_model.curve import curve_svg
from tools.text_model.document import Document, name_fraction
from tools.text_model.errors import RecipeError
from tools.text_model.experts import register_sorted_experts
from tools.text_model.export import export_model, export_texts, export_tokenizer
from tools.text_model.head import head_loss
from tools.text_model.licences import licence_stanza, page_comments, translators
from tools.text_model.markup import html_to_text, squeeze_blank_lines, troff_to_text
from tools.text_model.measure import held_out_rows, measure_imbalance, measure_quality
from tools.text_model.metrics import collect_metrics, token_bytes, write_metrics
from tools.text_model.model import build_model
from tools.text_model.muon import orthogonalise
from tools.text_model.overlap import drop_shared_passages, run_hashes, shared_fraction, sorted_run_hashes
from tools.text_model.packages import Package
from tools.text_model.recipe import Recipe
from tools.text_model.sources import Source, go_code, wordnet_entry
from tools.text_model.tokenizer import encode_corpus, encode_texts, train_tokenizer
from tools.text_model.train import Trainer, learning_rate_factor

TINY = Recipe(
    vocab_size=320, hidden_size=32, intermediate_size=32, num_layers=2, num_heads=1, num_experts=8,
    num_experts_per_token=2, max_positions=64, num_steps=6, sequence_length=16, warmup_steps=2,
    sequences_per_step={"alpha": 2, "beta": 1}, evaluate_every=3, save_every=3, log_every=1,
    held_out_fraction=0.2, tokenizer_bytes=20_000,
)  # fmt: skip


def tiny_source(domain: str) -> Source:
    """Forty documents of made-up words, no two alike."""
    rng = np.random.default_rng(len(domain))
    texts = ["\n\n".join(" ".join(map(str, rng.integers(0, 999, 30))) for _ in range(8)) for _ in range(40)]
    documents = [Document(name=f"{domain}/{i}", text=text) for i, text in enumerate(texts)]
    return Source(
        domain=domain,
        origin="made up",
        version="1",
        licence="CC0-1.0",
        licence_text="Do as you like.\n",
        documents=documents,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus on disk."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus([tiny_source("alpha"), tiny_source("beta")], TINY, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    """The tokenizer of the tiny corpus."""
    return train_tokenizer(corpus, TINY)


def tiny_trainer(corpus: Path, tokenizer: Tokenizer, folder: Path, recipe: Recipe = TINY) -> Trainer:
    """A trainer on the tiny corpus."""
    streams = encode_corpus(tokenizer, corpus, recipe, "train")
    return Trainer(recipe, streams, encode_corpus(tokenizer, corpus, recipe, "heldout"), folder)


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


# --- tokens and batches ---


def test_the_tokenizer_gives_text_back(tokenizer: Tokenizer) -> None:
    text = "x = 42\n\tGröße →"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("907").ids] == ["9", "0", "7"]
    assert token_bytes(tokenizer)[tokenizer.encode(text).ids].sum() == len(text.encode())


def test_documents_are_joined_by_the_end_of_text_token(tokenizer: Tokenizer) -> None:
    stream = encode_texts(tokenizer, ["1", "2"])
    one, two = tokenizer.token_to_id("1"), tokenizer.token_to_id("2")
    assert stream.tolist() == [0, one, 0, two, 0]


def test_a_pass_visits_every_place_once() -> None:
    stream = np.arange(103)
    starts = [int(sequence_at(stream, number, 10, "seed")[0]) for number in range(18)]
    first, second = starts[:9], starts[9:]
    assert len({start // 10 for start in first}) == 9
    assert {start % 10 for start in first} == {first[0] % 10}
    assert first != second
    assert all(len(sequence_at(stream, number, 10, "seed")) == 11 for number in range(18))


def test_a_stream_that_is_too_short_is_refused() -> None:
    with pytest.raises(RecipeError, match="a stream of 20 tokens is too short; at least 21 are needed"):
        sequence_at(np.arange(20), 0, 10, "seed")


def test_each_step_holds_the_sequences_of_each_domain() -> None:
    streams = {"alpha": np.arange(0, 1000), "beta": np.arange(1000, 2000)}
    batch = batch_at(streams, 3, TINY)
    assert batch.shape == (3, 17)
    assert (batch[:2] < 1000).all()
    assert (batch[2] >= 1000).all()
    assert torch.equal(batch, batch_at(streams, 3, TINY))


def test_held_out_rows_predict_each_token_once() -> None:
    rows = held_out_rows(np.arange(33), 16, 2)
    assert rows[:, 1:].flatten().tolist() == list(range(1, 33))


# --- training ---


@pytest.mark.parametrize("shape", [(3, 8, 32, 16), (2, 16, 32), (24, 24)])
def test_newton_schulz_makes_matrices_nearly_orthogonal(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular_values = torch.linalg.svdvals(orthogonalise(matrices, 6))
    assert singular_values.max() < 1.3
    assert (singular_values > 0.5).float().mean() > 0.9


def test_newton_schulz_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.mT @ orthogonalise(matrix, 5) @ right.mT
    assert torch.allclose(rotated, torch.diag(rotated.diag()), atol=1e-4)


def test_newton_schulz_treats_each_matrix_alone() -> None:
    matrices = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([orthogonalise(matrix, 5) for matrix in matrices])
    assert torch.allclose(orthogonalise(matrices, 5), alone, atol=1e-5)


def test_sorted_experts_equal_the_stock_ones() -> None:
    model, ids = build_model(TINY), torch.arange(2, 66).view(4, 16)
    gradients = []
    for implementation in ("eager", "sorted_mm"):
        if implementation == "sorted_mm":
            register_sorted_experts()
        model.set_experts_implementation(implementation)
        model.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits
        logits.square().sum().backward()
        gradients.append(
            [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        )
    for stock, ours in zip(*gradients, strict=True):
        assert torch.allclose(stock, ours, rtol=1e-4, atol=1e-5)


def test_the_head_loss_equals_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(1500, 8, generator=generator), torch.randn(30, 8, generator=generator)
    targets = torch.randint(0, 30, (1500,), generator=generator)
    losses, gradients = [], []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = head_loss(h, w, targets) if ours else cross_entropy(h @ w.mT, targets)
        (2 * loss).backward()
        losses.append(loss.item())
        gradients.append((h.grad, w.grad))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for first, second in zip(*gradients, strict=True):
        assert torch.allclose(first, second, atol=1e-6)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = replace(TINY, num_steps=100, warmup_steps=10, plateau_fraction=0.4)
    factors = [learning_rate_factor(step, recipe) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:41] == [1.0] * 32
    assert factors[70] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_an_interrupted_run_ends_with_the_same_weights(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = tiny_trainer(corpus, tokenizer, tmp_path / "whole")
    whole.run()
    tiny_trainer(corpus, tokenizer, tmp_path / "cut").run(until=4)
    resumed = tiny_trainer(corpus, tokenizer, tmp_path / "cut")
    assert resumed.resume()
    assert resumed.step == 4
    resumed.run()
    assert resumed.step == TINY.num_steps
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert [row["loss"] for row in whole.log] == [row["loss"] for row in resumed.log]


def test_the_state_of_another_recipe_is_not_resumed(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tiny_trainer(corpus, tokenizer, tmp_path).run(until=1)
    assert not tiny_trainer(corpus, tokenizer, tmp_path, replace(TINY, seed=1)).resume()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_size": 40}, "hidden_size must be a multiple of 32, got 40"), ({"num_heads": 2}, "got 16"),
     ({"num_experts": 12}, "num_experts must be a multiple of 8, got 12")],
)  # fmt: skip
def test_sizes_that_do_not_divide_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(replace(TINY, **change))  # type: ignore[arg-type]


# --- measuring, export, card ---


def test_imbalance_is_the_peak_over_the_mean(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    trainer = tiny_trainer(corpus, tokenizer, tmp_path)
    torch.nn.init.zeros_(
        trainer.model.model.layers[0].mlp.gate.weight
    )  # all scores equal: the same 2 of 8 experts
    imbalance = measure_imbalance(trainer.model.eval(), trainer.held_out, 16)
    assert imbalance["alpha"][0] == imbalance["mixed"][0] == pytest.approx(4.0)
    assert all(1.0 <= peak <= 4.0 for peaks in imbalance.values() for peak in peaks)


def test_a_uniform_model_has_the_loss_of_a_uniform_guess(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    trainer = tiny_trainer(corpus, tokenizer, tmp_path)
    torch.nn.init.zeros_(trainer.model.lm_head.weight)
    quality = measure_quality(trainer.model, trainer.held_out, 16, bytes_of_token=token_bytes(tokenizer))
    assert quality["all"]["loss"] == pytest.approx(math.log(TINY.vocab_size), abs=1e-5)
    assert quality["alpha"]["tokens"] == quality["beta"]["tokens"] == quality["all"]["tokens"] / 2
    assert quality["all"]["accuracy"] < 0.2


def test_the_exported_folder_is_whole(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    trainer, out = tiny_trainer(corpus, tokenizer, tmp_path), tmp_path / "out"
    trainer.run()
    export_texts(corpus, TINY, out)
    export_tokenizer(tokenizer, TINY, out)
    model = export_model(trainer.model, out)
    write_metrics(collect_metrics(TINY, corpus, tokenizer, trainer, model), out)
    write_card(out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "config.json", "generation_config.json", "heldout/LICENSES.md", "heldout/alpha.txt",
        "heldout/beta.txt", "heldout/licences/alpha.txt", "heldout/licences/beta.txt",
        "metrics.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "training.svg",
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"{metrics['quality']['all']['accuracy']:.1%}" in (out / "README.md").read_text()
    weights, rounded = trainer.model.state_dict(), model.state_dict()
    assert all(torch.equal(weights[name].bfloat16().float(), rounded[name]) for name in weights)


def test_the_curve_is_a_small_picture() -> None:
    curve = [
        {"step": step, "loss": 8 - step / 20, "held_out_loss": 8 - step / 22} for step in range(10, 101, 10)
    ]
    root = ElementTree.fromstring(curve_svg(curve))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 10
    assert len(curve_svg(curve)) < 60_000


# --- the command ---


def test_the_command_makes_the_model_and_does_not_repeat_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[str] = []

    def gather(recipe: Recipe, cache: Path) -> list[Source]:
        gathered.append(str(cache))
        return [tiny_source(domain) for domain in recipe.domains]

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(command, "gather_sources", gather)
    monkeypatch.setattr(command, "Recipe", lambda: TINY)
    arguments = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--threads", "1"]
    for _ in range(2):
        assert command.main([*arguments, "--early", str(tmp_path / "early")]) == 0
    assert len(gathered) == 1
    assert (tmp_path / "early" / "model.safetensors").exists()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["curve"][-1]["step"] == TINY.num_steps


def test_the_command_states_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "gather_sources", lambda recipe, cache: [go_code(cache)])
    assert command.main(["--work", str(tmp_path), "--out", str(tmp_path), "--threads", "1"]) == 1
    assert "error: the recipe needs 'apt-get', which was not found" in capsys.readouterr().err
