"""`evenmoe simulate trace` as a newcomer uses it: what it prints and writes, what it refuses, and real data."""

import json
from pathlib import Path

import numpy as np
import pytest

from evenmoe.placement import Placement, write_placement

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
OLMOE = SHARED / "expert_loads" / "olmoe-1b-7b.json"
MIXTRAL = SHARED / "expert_loads" / "mixtral-8x7b.json"
AZURE = SHARED / "traces" / "azure_llm_2023_conv.csv"
needs_data = pytest.mark.skipif(not AZURE.exists(), reason="the recorded traces and loads are not here")

FAST = ("--jobs", 1, "--seeds", 1, 2, "--strategy", "auto", "--devices", 4)


@pytest.fixture
def arrivals(tmp_path):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(1.0, 60))
    rows = [f"{at:.6f},{rng.integers(100, 900)},{rng.integers(1, 4)}" for at in times]
    path = tmp_path / "arrivals.csv"
    path.write_text("arrived_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def loads(tmp_path):
    """Eight experts, top-2, one layer: a topic on each half."""
    path = tmp_path / "loads.json"
    domains = {"code": [[45, 45, 45, 45, 5, 5, 5, 5]], "books": [[5, 5, 5, 5, 45, 45, 45, 45]]}
    path.write_text(json.dumps({"layers": [0], "num_experts": 8, "top_k": 2, "domains": domains}))
    return path


def test_it_prints_tables_and_ends_with_the_sentence(evenmoe, arrivals, loads, tmp_path):
    saved = tmp_path / "out" / "trace.json"
    status, out, err = evenmoe(
        "simulate", "trace", "--arrivals", arrivals, "--loads", loads, *FAST, "--json", saved
    )  # fmt: skip
    assert status == 0, err
    body = json.loads(saved.read_text())
    assert out.split() [-len(body["advice"]["sentence"].split()) :] == body["advice"]["sentence"].split()  # fmt: skip
    assert "arrivals.csv: 60 requests, 0.926/s of their own; run at" in out
    assert "4 devices of h100-node, mixtral in bfloat16, static batches" in out
    assert "the trace names none" in out
    assert "same gains with requests of one length" in out
    assert [line["strategy"] for line in body["lines"]] == ["fcfs", "auto"]
    assert body["rate_per_s"] == pytest.approx(0.9 * body["capacity_per_s"])
    assert body["config"]["shape"]["name"] == "mixtral"
    assert body["config"]["topics"] == ["code", "books"]
    assert body["options"]["arrivals"] == str(arrivals)
    assert body["versions"]["evenmoe"]


def test_the_same_command_writes_the_same_bytes(evenmoe, arrivals, loads, tmp_path):
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for saved in files:
        evenmoe(
            "simulate",
            "trace",
            "--arrivals",
            arrivals,
            "--loads",
            loads,
            *FAST,
            "--no-explain",
            "--json",
            saved,
        )
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_routing_policy_acts_inside(evenmoe, arrivals, loads, tmp_path):
    saved = tmp_path / "dropping.json"
    status, out, err = evenmoe(
        "simulate", "trace", "--arrivals", arrivals, "--loads", loads, *FAST, "--no-explain", "--policy", "token_drop",
        "--gamma", 1.0, "--assign", "balanced", "--json", saved,
    )  # fmt: skip
    assert status == 0, err
    assert "dropped" in out
    assert "token_drop at gamma 1" in out
    assert json.loads(saved.read_text())["lines"][0]["figures"]["drop_rate"]["mean"] > 0.05


def test_one_seed_is_no_verdict(evenmoe, arrivals, loads):
    status, out, _ = evenmoe(
        "simulate", "trace", "--arrivals", arrivals, "--loads", loads, "--jobs", 1, "--seeds", 1, "--no-explain",
        "--batching", "continuous", "--max-running", 8, "--machine", "formula", "--speed", 2,
    )  # fmt: skip
    assert status == 0
    assert "Not decided: one seed" in out


def test_prompts_with_a_token_prior_in_place_of_loads(evenmoe, arrivals, tmp_path):
    from evenmoe.scheduling.predictors import TokenCounter, TokenPrior

    counter = TokenCounter(2, 8, 2)
    ids = np.arange(300)
    counter.add_seen(ids)
    chosen = np.zeros((300, 8), dtype=bool)
    chosen[ids, ids % 8] = chosen[ids, (ids + 3) % 8] = True
    for layer in range(2):
        counter.add(layer, ids, chosen)
    prior = TokenPrior(counts=counter.counts(), model="bundled:text").save(tmp_path / "prior.npz")
    asked = tmp_path / "asked.jsonl"
    texts = {"code": "def add(a, b):\n    return a + b", "books": "In the beginning was the word"}
    asked.write_text(
        "".join(json.dumps({"prompt": text, "topic": topic}) + "\n" for topic, text in texts.items())
    )
    status, out, err = evenmoe(
        "simulate", "trace", "--arrivals", arrivals, "--prompts", asked, "--prior", prior, *FAST, "--no-explain"
    )  # fmt: skip
    assert status == 0, err
    assert "from code, books" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "soonest"), "strategies = 'soonest' is not allowed: one of fcfs, random"),
        (("--shape", "olmoe"), "shape = 'olmoe (64 experts, top-8)' is not allowed: one with the 8 experts, top-2"),
        (("--shape", "gpt"), "shape = 'gpt' is not allowed: one of olmoe"),
        (("--machine", "tpu"), "machine = 'tpu' is not allowed: one of h100-node, h20-node"),
        (("--placement", "nowhere.json"), "nowhere.json"),
        (("--placement", "PLACED"), "devices = 4 is not allowed: the 2 of"),
        (("--policy", "token_drop"), "gamma = None is not allowed: a capacity factor"),
        (("--gamma", 1.0), "gamma = 1.0 is not allowed: left out without --policy"),
        (("--policy", "drop", "--gamma", 1.0), "policy = 'drop' is not allowed: one of token_drop"),
        (("--batching", "rolling"), "batching = 'rolling' is not allowed: one of static, continuous"),
        (("--max-running", 4), "max-running = 4 is not allowed: left out with static"),
        (("--share", 0.9, "--rate", 3), "rate = 3.0 is not allowed: left out with --share"),
        (("--share", 0), "share = 0"),
        (("--prior", "prior.npz"), "prior = 'prior.npz' is not allowed: left out without --prompts"),
        (("--seeds", "one"), "seeds = 'one' is not allowed"),
        (("--assign", "anyhow"), "assign"),
        (("--dtype", "int4"), "dtype = 'int4' is not allowed"),
        (("--devices", 9), "9"),
        (("--window", 4), "window_size = 4 is not allowed: at least max_batch_size, 8"),
        (("--by-session",), "by_session = True is not allowed"),
        (("--start", 1e9), "start_s"),
        (("--warmup", 1.0), "warmup = 1.0 is not allowed"),
        (("--cosine", 1.5), "cosine = 1.5 is not allowed"),
    ],
)  # fmt: skip
def test_what_cannot_act_is_refused_by_name(evenmoe, arrivals, loads, tmp_path, options, message):
    placed = tmp_path / "placed.json"
    write_placement(Placement.of([0, 0, 0, 0, 1, 1, 1, 1], 2), placed)
    given = [placed if option == "PLACED" else option for option in options]
    status, _, err = evenmoe("simulate", "trace", "--arrivals", arrivals, "--loads", loads, *FAST, *given)
    assert status == 2
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("arrived_s,prompt_tokens\n1,2\n", "output_tokens"),
        ("arrived_s,prompt_tokens,output_tokens\n1,0,3\n", "line 2"),
        ("arrived_s,prompt_tokens,output_tokens\n2,5,3\n1,5,3\n", "line 3"),
    ],
)
def test_a_broken_trace_is_refused_by_file_and_line(evenmoe, loads, tmp_path, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    status, _, err = evenmoe("simulate", "trace", "--arrivals", path, "--loads", loads)
    assert status == 2
    assert "broken.csv" in err
    assert message in err


def test_without_loads_or_files_it_says_what_is_missing(evenmoe, arrivals, tmp_path):
    status, _, err = evenmoe("simulate", "trace", "--arrivals", arrivals)
    assert status == 2
    assert "loads = None is not allowed" in err
    status, _, err = evenmoe("simulate", "trace", "--arrivals", tmp_path / "none.csv", "--loads", arrivals)
    assert status == 2
    assert "none.csv" in err
    status, _, err = evenmoe("simulate", "trace", "--arrivals", arrivals, "--prompts", arrivals)
    assert status == 2
    assert "prior = None is not allowed" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loads", "LOADS"), "left out with --prompts"),
        (("--noise", 0.1), "noise = 0.1 is not allowed: left out with --prompts"),
    ],
)
def test_prompts_do_not_go_with_what_is_said_of_domains(evenmoe, arrivals, loads, options, message):
    given = [loads if option == "LOADS" else option for option in options]
    status, _, err = evenmoe("simulate", "trace", "--arrivals", arrivals, "--prompts", arrivals, *given)
    assert status == 2
    assert message in " ".join(err.split())


@needs_data
def test_on_recorded_loads_olmoe_serves_more_and_mixtral_almost_nothing(evenmoe, tmp_path):
    gains, advice = {}, {}
    for name, path in (("olmoe", OLMOE), ("mixtral", MIXTRAL)):
        saved = tmp_path / f"{name}.json"
        status, _, err = evenmoe(
            "simulate", "trace", "--arrivals", AZURE, "--loads", path, "--requests", 600, "--seeds", 1, 2, 3,
            "--strategy", "peak_excess", "--output-tokens", 1, "--prompt-tokens", 1000, "--no-explain", "--json", saved,
        )  # fmt: skip
        assert status == 0, err
        body = json.loads(saved.read_text())
        fcfs, ours = body["lines"]
        gains[name] = ours["gains"]["capacity"]["as_is"]["mean"]
        advice[name] = body["advice"]
        if name == "olmoe":
            assert 1.4 < fcfs["full_straggler_factor"]["mean"] < 1.6
            assert ours["full_straggler_factor"]["mean"] < 0.97 * fcfs["full_straggler_factor"]["mean"]
    assert gains["olmoe"] > 0.02 > 2 * abs(gains["mixtral"])
    assert advice["mixtral"]["verdict"] == "off"
    assert "almost nothing is gained" in advice["mixtral"]["sentence"]
