"""A sweep on a tiny random model: rows, determinism, resuming, and what is refused before anything runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from evenmoe.errors import ConfigError, FileFormatError, ShapeError
from evenmoe.evaluation import sweep as sweep_module
from evenmoe.evaluation.config import SweepConfig
from evenmoe.evaluation.quality import measure_quality
from evenmoe.evaluation.results import read_results
from evenmoe.evaluation.specs import parse_policies
from evenmoe.evaluation.sweep import points, run_sweep
from evenmoe.evaluation.texts import cut_windows, read_texts
from evenmoe.loads import read_loads

POLICIES = ("token_drop", "token_drop:keep=random", "expanded_drop", "fill", "expert_drop:fraction=0.25")
ISSUE_FIELDS = (
    *("policy", "gamma", "scope", "level", "next_token_accuracy", "bits_per_byte", "drop_rate", "seconds"),
    *(
        "peak_to_mean_before",
        "peak_to_mean_after",
        "straggler_factor",
        "gate_mass_kept",
        "tokens_without_expert",
    ),
)


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(
        tiny_checkpoint
    )


def config(**changes) -> SweepConfig:
    settings = {
        "model": "tiny",
        "policies": parse_policies(POLICIES),
        "gammas": (1.5, 0.5),
        "texts": ("numbers", "words"),
        "num_devices": 4,
        "num_windows": 16,
        "window_tokens": 24,
        "batch_size": 8,
    }
    return SweepConfig(**(settings | changes))


def test_rows_loads_and_provenance(loaded, text_files, tmp_path):
    results = run_sweep(config(), *loaded, read_texts(text_files), tmp_path)
    assert results == read_results(tmp_path / "results.json")
    body = json.loads((tmp_path / "results.json").read_text())
    assert all(field in row for row in body["rows"] for field in ISSUE_FIELDS)
    assert {"config", "versions", "seed"} <= set(body)
    base, *others = results.rows
    assert (base.policy, base.drop_rate, base.accuracy_change) == ("baseline", 0.0, 0.0)
    assert [row.gamma for row in others] == [1.5, 0.5] * 4 + [None]
    for row in results.rows:
        loads = read_loads(tmp_path / row.loads_file)
        assert math.isclose(loads.drop_rate, row.drop_rate)
        assert set(loads.by_tag) == {"numbers", "words"}
        by_tag = sum(counts.before_LE for counts in loads.by_tag.values())
        np.testing.assert_array_equal(by_tag, loads.total.before_LE)
    assert not list(tmp_path.glob("*.partial*"))


def test_tighter_gamma_drops_more_and_is_more_even(loaded, text_files, tmp_path):
    rows = run_sweep(config(gammas=(4.0, 2.0, 1.0, 0.5)), *loaded, read_texts(text_files), tmp_path).rows
    score = [row for row in rows if row.key.startswith("token_drop-gamma")]
    assert [row.drop_rate for row in score] == sorted(row.drop_rate for row in score)
    assert [row.straggler_factor for row in score] == sorted(
        (row.straggler_factor for row in score), reverse=True
    )
    assert score[-1].drop_rate > 0.3


def test_the_unlimited_policy_is_the_baseline_exactly(loaded, text_files, tmp_path):
    changed = config(policies=parse_policies(["token_drop", "fill"]), gammas=(float("inf"),))
    base, *others = run_sweep(changed, *loaded, read_texts(text_files), tmp_path).rows
    for row in others:
        assert (row.next_token_accuracy, row.bits_per_byte) == (base.next_token_accuracy, base.bits_per_byte)
        assert row.drop_rate == 0.0
    assert read_results(tmp_path / "results.json").rows[1].gamma == math.inf


def without_seconds(out: Path) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_same_seed_same_rows_and_an_interrupted_sweep_goes_on(loaded, text_files, tmp_path, monkeypatch):
    texts = read_texts(text_files)
    run_sweep(config(), *loaded, texts, tmp_path / "whole")
    measured = []
    original = sweep_module._measure

    def interrupted(point, *args):
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(point.key)
        return original(point, *args)

    monkeypatch.setattr(sweep_module, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config(), *loaded, texts, tmp_path / "cut")
    with (tmp_path / "cut" / "rows.partial.jsonl").open("a") as file:
        file.write('{"key": "cut sh')
    first_part = list(measured)
    monkeypatch.setattr(
        sweep_module, "_measure", lambda point, *a: (measured.append(point.key), original(point, *a))[1]
    )
    measured.clear()
    run_sweep(config(), *loaded, texts, tmp_path / "cut")
    assert measured[0] == "baseline", "the baseline is measured again: paired differences need its windows"
    assert not set(measured[1:]) & set(first_part[1:]), "a finished row was measured again"
    assert without_seconds(tmp_path / "cut") == without_seconds(tmp_path / "whole")


def test_rows_of_another_configuration_are_not_mixed_in(loaded, text_files, tmp_path, monkeypatch):
    texts = read_texts(text_files)
    original = sweep_module._measure
    monkeypatch.setattr(sweep_module, "_row", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config(seed=1), *loaded, texts, tmp_path)
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(
        sweep_module, "_measure", lambda point, *a: (seen.append(point.key), original(point, *a))[1]
    )
    run_sweep(config(seed=2), *loaded, texts, tmp_path)
    assert len(seen) == len(points(config()))


def test_quality_is_what_a_plain_loss_says(loaded, text_files):
    import torch

    model, tokenizer = loaded
    windows = cut_windows(read_texts(text_files), tokenizer, num_windows=4, window_tokens=24)
    quality = measure_quality(model, [windows[:2], windows[2:]])
    ids_BS = torch.tensor(np.stack([window.ids_S for window in windows]))
    with torch.no_grad():
        out = model(input_ids=ids_BS, labels=ids_BS, output_router_logits=False)
    nats = quality.bits_B.sum() * math.log(2) / quality.predicted_B.sum()
    assert nats == pytest.approx(out.loss.item(), rel=1e-5)
    right = (out.logits[:, :-1].argmax(-1) == ids_BS[:, 1:]).float().mean().item()
    assert quality.next_token_accuracy == pytest.approx(right)


def test_a_paired_difference_needs_the_same_windows(loaded, text_files):
    model, tokenizer = loaded
    windows = cut_windows(read_texts(text_files), tokenizer, num_windows=4, window_tokens=24)
    left, right = measure_quality(model, [windows]), measure_quality(model, [windows[:3]])
    with pytest.raises(ShapeError, match="same windows"):
        left.accuracy_change(right)


def test_a_wrong_policy_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="inf"):
        points(config(gammas=(float("inf"),)))
    with pytest.raises(ValidationError, match="extra"):
        config(gama=1.0)
    with pytest.raises(ValidationError, match="each gamma once"):
        config(gammas=(1.0, 1.0))
    with pytest.raises(ValidationError, match="greater than 0"):
        config(gammas=(0.0,))


def test_a_damaged_results_file_is_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"format": "evenmoe.results", "rows": 3}')
    with pytest.raises(FileFormatError, match="is not a results file"):
        read_results(path)
