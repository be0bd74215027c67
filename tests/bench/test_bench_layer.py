"""`evenmoe bench layer` as a user calls it: tables, data, traces, and what it says when something is wrong."""

import json
from functools import partial

import pytest

from evenmoe.bench.phases import PHASES

SMALL = ["--tokens", "512", "--repeats", "1", "--gamma", "1"]
MACHINE = "h100-node"


@pytest.fixture
def bench_layer(evenmoe, tmp_path):
    """Run the command on a tiny shape in this process; gives (exit status, standard output, standard error)."""
    shape = tmp_path / "tiny.json"
    sizes = {"hidden": 16, "intermediate": 8, "num_experts": 8, "top_k": 2, "num_devices": 4}
    shape.write_text(json.dumps(sizes))
    return partial(evenmoe, "bench", "layer", "--shape", shape, *SMALL)


def check_rows(body, num_devices, mode):
    assert body["mode"] == mode
    assert body["rows"][0]["name"] == "baseline"
    assert body["config"]["devices"] == num_devices
    for row in body["rows"]:
        assert len(row["devices"]) == num_devices
        assert row["layer_ms"] > 0
        assert row["speedup"] == pytest.approx(body["rows"][0]["layer_ms"] / row["layer_ms"])
        assert sum(device["pairs_sent"] for device in row["devices"]) == sum(
            device["pairs_run"] for device in row["devices"]
        )
        for device in row["devices"]:
            assert set(device["wall_ms"]) == set(PHASES)


def test_emulated_prints_tables_and_writes_rows_and_a_trace(bench_layer, tmp_path):
    out, trace = tmp_path / "new" / "rows.json", tmp_path / "trace.json"
    status, printed, _ = bench_layer(
        "--skew", 2, "--json", out, "--trace", trace, "--machine", MACHINE, "--dtype", "bfloat16"
    )
    assert status == 0
    assert "emulated: each device's part is run alone" in printed
    assert all(
        name in printed
        for name in ("No limit", "Token Drop", "Expanded Drop", "Fill", "wait", "predicted ms")
    )
    body = json.loads(out.read_text())
    check_rows(body, 4, "emulated")
    assert [row["name"] for row in body["rows"]] == ["baseline", "token_drop", "expanded_drop", "fill"]
    for row in body["rows"]:
        assert sum(row["phases_busiest"].values()) == pytest.approx(row["layer_ms"])
        assert row["predicted_error"] == pytest.approx(row["predicted_ms"] / row["layer_ms"] - 1)
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1, 2, 3}
    policies = {event["args"]["policy"] for event in events if event["ph"] == "X"}
    assert policies == {"No limit", "Token Drop, γ 1", "Expanded Drop, γ 1", "Fill, γ 1"}


def test_ranks_runs_real_processes_and_their_times_tile(bench_layer, tmp_path):
    out, trace = tmp_path / "rows.json", tmp_path / "trace.json"
    status, printed, err = bench_layer("--skew", 2, "--ranks", 2, "--json", out, "--trace", trace)
    assert status == 0, err
    assert "ranks: real processes" in printed
    body = json.loads(out.read_text())
    check_rows(body, 2, "ranks")
    for row in body["rows"]:
        assert len(row["passes_ms"]) == 1
        longest = max(sum(device["wall_ms"].values()) for device in row["devices"])
        assert longest == pytest.approx(row["layer_ms"])
        assert all(device["wall_ms"]["dispatch"] > 0 for device in row["devices"])
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    layers = [event for event in events if event["cat"] == "layer"]
    assert len(layers) == 4 * 2
    for policy in {event["args"]["policy"] for event in layers}:
        first, second = (event for event in layers if event["args"]["policy"] == policy)
        assert first["ts"] < second["ts"] + second["dur"], "ranks' passes must overlap on one clock"
        assert second["ts"] < first["ts"] + first["dur"]


def test_predicted_runs_nothing(bench_layer, tmp_path, monkeypatch):
    monkeypatch.setattr("evenmoe.bench.layer.run_emulated", None)
    monkeypatch.setattr("evenmoe.bench.layer.run_ranks", None)
    out = tmp_path / "rows.json"
    status, printed, _ = bench_layer(
        "--skew", 3, "--mode", "predicted", "--machine", MACHINE, "--dtype", "bfloat16", "--json", out
    )
    assert status == 0
    assert "predicted: nothing is run" in printed
    body = json.loads(out.read_text())
    check_rows(body, 4, "predicted")
    assert all(row["layer_ms"] == row["predicted_ms"] for row in body["rows"])


def test_a_loads_file_gives_its_own_counts(bench_layer, tmp_path):
    loads = tmp_path / "loads.json"
    counts = [[400, 100, 100, 100, 100, 100, 50, 50]]
    loads.write_text(
        json.dumps({"model": "m", "layers": ["3"], "num_experts": 8, "top_k": 2, "domains": {"code": counts}})
    )
    out = tmp_path / "rows.json"
    status, printed, _ = bench_layer("--loads", loads, "--layer", 3, "--tag", "code", "--json", out)
    assert status == 0
    assert "m, layer 3, code" in printed
    body = json.loads(out.read_text())
    pairs_D = [device["pairs_run"] for device in body["rows"][0]["devices"]]
    assert sum(pairs_D) == 1024
    assert pairs_D == pytest.approx([512, 204.8, 204.8, 102.4], abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a loads file, or --skew"),
        (["--skew", 5], "from 1 to 4"),
        (["--tag", "code"], "where --layer or --tag is given"),
        (["--loads", "absent.json"], "absent.json"),
        (["--skew", 2, "--shape", "gpt-5"], "olmoe, deepseek-v2-lite, qwen1.5-moe, mixtral"),
        (["--skew", 2, "--devices", 9], "at most the 8 experts"),
        (["--skew", 2, "--mode", "guess"], "emulated, ranks, predicted"),
        (["--skew", 2, "--mode", "ranks"], "--ranks N"),
        (["--skew", 2, "--mode", "predicted"], "a machine file or name"),
        (["--skew", 2, "--mode", "predicted", "--machine", "abacus"], "h100-node"),
        (["--skew", 2, "--ranks", 2, "--devices", 4], "the 2 ranks"),
        (["--skew", 2, "--ranks", 2, "--mode", "emulated"], "left out in emulated mode"),
        (["--skew", 2, "--mode", "predicted", "--machine", MACHINE, "--trace", "t.json"], "nothing is run"),
        (["--skew", 2, "--ranks", 2, "--link-gb-s", 3], "nothing else has a computed link"),
        (["--skew", 2, "--machine", MACHINE, "--link-gb-s", 3], "whose link is used"),
        (["--skew", 2, "--link-gb-s", 0], "a number above 0"),
        (["--skew", 2, "--policy", "tokendrop"], "baseline, token_drop"),
        (["--skew", 2, "--gamma", 0], "above 0"),
        (["--skew", 2, "--gamma", 1], "each value once"),
        (["--skew", 2, "--dtype", "float8"], "auto, float32"),
        (["--skew", 2, "--experts", "fast"], "auto, eager"),
        (["--skew", 2, "--clock", "sand"], "wall, cpu"),
        (["--skew", 2, "--clock", "cpu", "--threads", 2], "one thread"),
        (["--skew", 2, "--placement", "absent.json"], "absent.json"),
        (["--skew", 2, "--policy", "token_drop:scope=global"], "--mode ranks"),
    ],
)
def test_wrong_input_is_one_clear_line_and_status_2(bench_layer, arguments, message):
    status, out, err = bench_layer(*arguments)
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err + out


def test_a_placement_file_is_followed(bench_layer, tmp_path):
    from evenmoe.placement import Placement, write_placement

    path = write_placement(Placement.of([0, 0, 0, 0, 0, 0, 0, 1], 2, method="lopsided"), tmp_path / "p.json")
    out = tmp_path / "rows.json"
    status, _, _ = bench_layer("--skew", 1, "--placement", path, "--clock", "cpu", "--json", out)
    assert status == 0
    body = json.loads(out.read_text())
    assert (body["config"]["placement"], body["config"]["clock"]) == ("lopsided", "cpu")
    assert [device["pairs_run"] for device in body["rows"][0]["devices"]] == [896, 128]


def test_ctrl_c_is_said_and_status_130(bench_layer, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("evenmoe.bench.layer.run_emulated", interrupted)
    status, _, err = bench_layer("--skew", 2)
    assert status == 130
    assert "Nothing is left running" in err
