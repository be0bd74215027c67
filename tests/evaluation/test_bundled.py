"""The bundled model is what it is said to be, and the paper's ordering of policies holds on it."""

import json
import math
import sys

import numpy as np
import pytest

from evenmoe.cli.main import run
from evenmoe.evaluation.config import SweepConfig
from evenmoe.evaluation.quality import measure_quality
from evenmoe.evaluation.results import Results, Row, read_results
from evenmoe.evaluation.specs import parse_policies
from evenmoe.evaluation.sweep import run_sweep
from evenmoe.evaluation.texts import cut_windows, heldout_texts
from evenmoe.models.bundled import bundled_path, bundled_tokenizer, load_bundled

pytestmark = pytest.mark.slow


def test_the_checkpoint_is_small_plain_and_fits_kernels_and_devices():
    folder = bundled_path("text")
    config = json.loads((folder / "config.json").read_text())
    assert (folder / "model.safetensors").stat().st_size <= 20e6
    assert config["model_type"] == "olmoe"
    assert config["hidden_size"] % 32 == config["intermediate_size"] % 32 == 0
    assert config["hidden_size"] // config["num_attention_heads"] in (32, 64)
    assert config["num_experts"] % 8 == 0
    assert config["router_aux_loss_coef"] == 0.01
    assert "trust_remote_code" not in config
    assert "auto_map" not in config


def test_plain_transformers_loads_the_same_model():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(bundled_path("text"), dtype="float32").eval()
    ids = AutoTokenizer.from_pretrained(bundled_path("text"))("In the beginning", return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**ids).logits, load_bundled("text")(**ids).logits)


def test_held_out_accuracy_over_all_domains_is_that_of_the_card():
    texts = heldout_texts()
    assert len(texts) >= 8
    windows = cut_windows(texts, bundled_tokenizer("text"), num_windows=32 * len(texts), window_tokens=256)
    batches = [windows[i : i + 32] for i in range(0, len(windows), 32)]
    quality = measure_quality(load_bundled("text"), batches)
    by_domain = quality.accuracy_by_domain()
    assert quality.next_token_accuracy >= 0.34
    card = json.loads((bundled_path("text") / "metrics.json").read_text())["quality"]
    assert quality.next_token_accuracy == pytest.approx(card["all"]["accuracy"], abs=0.02)
    for domain, accuracy in by_domain.items():
        assert accuracy == pytest.approx(card[domain]["accuracy"], abs=0.04), domain


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Results:
    """The results of `evenmoe demo`, the command itself."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evenmoe", "demo", "--out", str(out)])
        with pytest.raises(SystemExit, match="0"):
            run()
    assert (out / "report.html").stat().st_size > 50_000
    return read_results(out / "results.json")


def row(results: Results, key: str) -> Row:
    return next(row for row in results.rows if row.key == key)


def test_experts_are_uneven_without_a_limit(demo):
    base = row(demo, "baseline")
    assert base.peak_to_mean_before > 2.0
    assert base.straggler_factor > 1.2


def test_what_an_expert_keeps_matters_as_in_the_paper(tmp_path):
    """On three times the demo's text: random and first are close on this model, as in the paper."""
    policies = parse_policies([f"token_drop:keep={keep}" for keep in ("score", "random", "first")])
    texts = heldout_texts()
    config = SweepConfig(
        model="bundled:text", policies=policies, gammas=(1.0,), texts=tuple(texts), num_windows=192
    )
    results = run_sweep(config, load_bundled("text"), bundled_tokenizer("text"), texts, tmp_path)
    score, random, first = (row.next_token_accuracy for row in results.rows[1:])
    assert score > random + 0.02, "score well above random"
    assert random > first, "random above first"


@pytest.mark.parametrize("policy", ["expanded_drop", "fill"])
def test_using_spare_room_keeps_quality_at_a_lower_peak(demo, policy):
    plain, better = row(demo, "token_drop-gamma1"), row(demo, f"{policy}-gamma1")
    noise = 2 * math.hypot(plain.accuracy_change_stderr, better.accuracy_change_stderr)
    assert better.next_token_accuracy > plain.next_token_accuracy - noise
    assert better.peak_to_mean_after < plain.peak_to_mean_after


def test_expert_drop_is_worse_than_token_drop_at_equal_straggler_factor(demo):
    base = row(demo, "baseline")
    line = [base, *(r for r in demo.rows if r.key.startswith("token_drop-gamma"))]
    factors, accuracies = (
        [r.straggler_factor for r in line][::-1],
        [r.next_token_accuracy for r in line][::-1],
    )
    hardest = row(demo, "expert_drop-0.75")
    assert hardest.straggler_factor < base.straggler_factor
    assert hardest.next_token_accuracy < np.interp(hardest.straggler_factor, factors, accuracies)


def test_capacity_bounds_the_straggler(demo):
    for r in demo.rows:
        if r.policy in ("token_drop", "expanded_drop", "fill"):
            assert r.straggler_factor <= r.gamma * 1.05, "ceil may add a little to gamma"
