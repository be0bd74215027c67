"""The page on prediction runs as printed and names everything; its figures on recorded token tables hold."""

import doctest
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from evenmoe.scheduling.predictors import TokenCounts, cosine

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "prediction.md"
RECORDED = ROOT.parent / "shared" / "data" / "expert_loads"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 10


def test_the_page_names_every_predictor_and_member_of_the_file():
    from evenmoe.evaluation.prediction import PREDICTORS
    from evenmoe.scheduling.predictors import prior_files

    text = PAGE.read_text()
    assert all(f"| `{name}` |" in text for name in PREDICTORS)
    assert all(f"`{name}`" in text for name in (*prior_files._ARRAYS, *prior_files._HEADER, "change_LEE"))


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded token tables are not here")
@pytest.mark.parametrize(("model", "experts", "top_k"), [("OLMoE", 64, 8), ("Mixtral", 8, 2)])
def test_the_recorded_token_tables_give_the_pages_figures(model, experts, top_k):
    spec = importlib.util.spec_from_file_location("run", ROOT / "runs" / "prediction_transfer.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    paths = sorted(RECORDED.glob(f"{model.lower()}*.tokens.*.npz"))
    counts = {
        path.stem.rpartition(".")[2]: TokenCounts.of_table(np.load(path), num_experts=experts, top_k=top_k)
        for path in paths
    }
    assert len(counts) == 3
    for domain in counts:
        prior, ids_T, true_LE = run.transfer(counts, domain)
        scores = (cosine(prior.predict(ids_T), true_LE), cosine(prior.mean_LE, true_LE))
        row = re.search(rf"\| {model}, {domain} \| (.*?)% \| (.*?) \| .*? \| (.*?) \|", PAGE.read_text())
        assert float(row[1]) == pytest.approx(100 * prior.coverage(ids_T), abs=0.051)
        for printed, score_L in zip((row[2], row[3]), scores, strict=True):
            assert [float(value) for value in printed.split(" / ")] == pytest.approx(
                score_L.tolist(), abs=0.00051
            )
