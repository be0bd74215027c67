"""The recipe of the bundled text model: tokens, training, measuring, export, and the command."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from tests.tools.tiny_recipe import TINY, tiny_source, tiny_trainer
from tools.errors import RecipeError
from tools.text_model import __main__ as command
from tools.text_model.batches import batch_at, sequence_at
from tools.text_model.card import write_card
from tools.text_model.curve import curve_svg
from tools.text_model.experts import register_sorted_experts
from tools.text_model.export import export_model, export_texts, export_tokenizer
from tools.text_model.head import head_loss
from tools.text_model.measure import held_out_rows, measure_imbalance, measure_quality
from tools.text_model.metrics import collect_metrics, token_bytes, write_metrics
from tools.text_model.model import build_model
from tools.text_model.muon import orthogonalise
from tools.text_model.recipe import Recipe
from tools.text_model.sources import Source, go_code
from tools.text_model.tokenizer import encode_texts
from tools.text_model.train import learning_rate_factor

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
