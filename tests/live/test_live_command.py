"""`evenmoe simulate live` on a tiny random model: it serves, measures, foretells, and stops when told to."""

import json

import pytest

SMALL = (
    "--requests",
    12,
    "--prompt-tokens",
    6,
    "--batch-size",
    2,
    "--window",
    4,
    "--trigger",
    2,
    "--devices",
    4,
)


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "asked.jsonl"
    lines = [{"prompt": f"{n * n} {n} {n + 1}", "topic": "numbers"} for n in range(12)]
    lines += [{"prompt": f"the quick brown fox jumps over {n}", "topic": "words"} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_it_measures_each_strategy_and_the_simulators_error(evenmoe, tiny_checkpoint, asked, tmp_path):
    saved = tmp_path / "out" / "live.json"
    status, out, err = evenmoe(
        "simulate", "live", tiny_checkpoint, "--prompts", asked, *SMALL, "--clock", "cpu", "--json", saved
    )  # fmt: skip
    assert status == 0, err
    assert "One process runs all experts" in out
    assert "Error of the simulator" in out
    body = json.loads(saved.read_text())
    assert [row["strategy"] for row in body["rows"]] == ["fcfs", "auto", "peak_excess"]
    for row in body["rows"]:
        assert row["measured"]["finished"] == 12
        assert row["measured"]["straggler_factor"] >= 1
        assert 0 < row["prediction_cosine"] <= 1
        assert set(row["forecast_errors"]) == {
            "latency_p50_s", "latency_p99_s", "throughput_requests_s", "straggler_factor"
        }  # fmt: skip
    assert body["config"]["scheduler"]["max_batch_size"] == 2
    assert body["warmup"]["capacity_requests_s"] > 0


def test_ctrl_c_reports_what_was_measured(evenmoe, tiny_checkpoint, asked, tmp_path, monkeypatch):
    from evenmoe.live.engine import ModelEngine

    calls, run = [], ModelEngine.run

    def interrupted(engine, ids_B):
        calls.append(len(ids_B))
        if len(calls) == 18:  # 14 batches warm up
            raise KeyboardInterrupt
        return run(engine, ids_B)

    monkeypatch.setattr(ModelEngine, "run", interrupted)
    saved = tmp_path / "live.json"
    status, out, err = evenmoe(
        "simulate", "live", tiny_checkpoint, "--prompts", asked, *SMALL, "--clock", "cpu", "--rate", 1000,
        "--json", saved,
    )  # fmt: skip
    assert status == 130, err
    assert "Interrupted: the last row has" in out
    body = json.loads(saved.read_text())
    assert body["interrupted"]
    assert [row["strategy"] for row in body["rows"]] == ["fcfs"]


def test_ctrl_c_before_anything_was_measured(evenmoe, tiny_checkpoint, asked, monkeypatch):
    from evenmoe.live import study

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "warm_up", interrupted)
    status, _, err = evenmoe("simulate", "live", tiny_checkpoint, "--prompts", asked, *SMALL)
    assert status == 130
    assert "Interrupted before anything was measured" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "soonest"), "strategy = 'soonest' is not allowed: one of fcfs"),
        (("--clock", "sun"), "clock = 'sun' is not allowed: one of wall, cpu"),
        (("--clock", "cpu", "--threads", 2), "threads = 2 is not allowed: 1 with the cpu clock"),
        (("--share", 0), "share = 0"),
        (("--window", 1), "window_size = 1 is not allowed"),
        (("--prior", "prior.txt"), "prior.txt"),
        (("--prompts", "none.jsonl"), "none.jsonl"),
    ],
)
def test_what_cannot_act_is_refused_by_name(evenmoe, tiny_checkpoint, asked, options, message):
    status, _, err = evenmoe("simulate", "live", tiny_checkpoint, "--prompts", asked, *SMALL, *options)
    assert status == 2
    assert message in " ".join(err.split())


def test_an_unknown_model_is_refused(evenmoe):
    status, _, err = evenmoe("simulate", "live", "no/such/folder")
    assert status == 2
    assert "no/such/folder" in err


def test_a_prior_of_another_model_is_refused(evenmoe, tiny_checkpoint, asked, tmp_path):
    import numpy as np

    from evenmoe.scheduling.predictors import TokenCounter, TokenPrior

    counter = TokenCounter(3, 8, 2)
    counter.add_seen(np.arange(10))
    chosen = np.zeros((10, 8), dtype=bool)
    chosen[:, :2] = True
    for layer in range(3):
        counter.add(layer, np.arange(10), chosen)
    prior = TokenPrior(counts=counter.counts()).save(tmp_path / "prior.npz")
    status, _, err = evenmoe(
        "simulate", "live", tiny_checkpoint, "--prompts", asked, *SMALL, "--prior", prior
    )
    assert status == 2
    assert "(3, 8)" in err
    assert "(2, 8)" in err
