"""`evenmoe place` as a newcomer uses it: what it prints and writes, and what it says when something is wrong."""

import json
from functools import partial

import numpy as np
import pytest

from evenmoe.loads import write_loads
from evenmoe.placement import read_placement
from evenmoe.placement.methods import METHODS
from tests.placement.placement_cases import alike_loads, expert_loads, misleading_counts


@pytest.fixture
def place(evenmoe):
    """Run `evenmoe place` in this process; gives (exit status, standard output, standard error)."""
    return partial(evenmoe, "place")


def loads_file(folder, num_domains=3, seed=0, num_experts=16):
    counts_GLE = np.stack([alike_loads(seed + layer, num_domains, num_experts) for layer in range(2)], axis=1)
    tags = None if num_domains else []
    return write_loads(expert_loads((1000 * counts_GLE).astype(np.int64), tags), folder / "loads.json")


def test_all_methods_side_by_side_as_table_and_data(place, tmp_path):
    loads = loads_file(tmp_path)
    out, rows = tmp_path / "new" / "placement.json", tmp_path / "data" / "rows.json"
    status, printed, _ = place("--loads", loads, "--devices", 4, "--out", out, "--json", rows)
    assert status == 0
    body = json.loads(rows.read_text())
    assert [row["method"] for row in body["rows"]] == list(METHODS)
    for row in body["rows"]:
        assert row["fitted_straggler_factor"] >= 1.0
        assert row["heldout_straggler_factor"] >= 1.0
        assert row["seconds"] >= 0.0
        assert f"{row['fitted_straggler_factor']:.3f}" in printed
        assert f"{row['heldout_straggler_factor']:.3f}" in printed
    assert body["config"]["devices"] == body["config"]["replicas"] == 4
    assert {"evenmoe", "numpy"} <= set(body["versions"])
    plain = [row for row in body["rows"] if "replicated" not in row["method"]]
    best = min(plain, key=lambda row: row["heldout_straggler_factor"])["method"]
    placement = read_placement(out)
    assert body["recommended"] == body["written"] == placement.method == best
    assert f"Recommended: {best}" in printed
    assert (placement.num_devices, placement.layers) == (4, ("layers.0", "layers.1"))


def test_the_same_seed_gives_the_same_file(place, tmp_path):
    loads, files = loads_file(tmp_path), []
    for name in ("a.json", "b.json"):
        assert place("--loads", loads, "--devices", 4, "--method", "vector", "--out", tmp_path / name)[0] == 0
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_copies_are_written_only_if_asked_for(place, tmp_path):
    loads, out, rows = loads_file(tmp_path), tmp_path / "p.json", tmp_path / "r.json"
    _, printed, _ = place("--loads", loads, "--devices", 4, "--out", out)
    assert not read_placement(out).is_replicated
    assert "With --replicas 4" in printed
    status, _, _ = place("--loads", loads, "--devices", 4, "--out", out, "--replicas", 6, "--json", rows)
    assert status == 0
    assert read_placement(out).num_copies(0) == 16 + 6
    _, printed, _ = place("--loads", loads, "--devices", 4, "--out", out, "--replicas", 0, "--json", rows)
    assert not any("replicated" in row["method"] for row in json.loads(rows.read_text())["rows"])
    assert "replicas" not in printed


def test_a_method_that_was_asked_for_is_written(place, tmp_path):
    loads, out = loads_file(tmp_path), tmp_path / "p.json"
    status, printed, _ = place("--loads", loads, "--devices", 4, "--out", out, "--method", "round_robin")
    assert status == 0
    assert read_placement(out).method == "round_robin"
    assert "round_robin was asked for" in printed


def test_one_domain_has_no_held_out_factor_and_it_says_why(place, tmp_path):
    loads, rows = loads_file(tmp_path, num_domains=1), tmp_path / "r.json"
    status, printed, _ = place("--loads", loads, "--devices", 4, "--out", tmp_path / "p.json", "--json", rows)
    assert status == 0
    assert "the loads have only one domain" in printed
    body = json.loads(rows.read_text())
    assert all(row["heldout_straggler_factor"] is None for row in body["rows"])
    assert "only one domain" in body["heldout_missing"]


def test_it_says_where_vector_fails_on_unseen_domains(place, tmp_path):
    counts_GE, rows = misleading_counts(), tmp_path / "r.json"
    loads = write_loads(expert_loads(counts_GE[:, None]), tmp_path / "loads.json")
    _, printed, _ = place("--loads", loads, "--devices", 4, "--out", tmp_path / "p.json", "--json", rows)
    held_out = {
        row["method"]: row["heldout_straggler_factor"] for row in json.loads(rows.read_text())["rows"]
    }
    assert held_out["vector"] > held_out["load_balanced"]
    figures = f"{held_out['vector']:.3f} against {held_out['load_balanced']:.3f}"
    assert f"On an unseen domain vector is worse here than load_balanced: {figures}" in printed
    assert read_placement(tmp_path / "p.json").method != "vector"


def test_it_does_not_say_so_where_vector_does_not_fail(place, tmp_path):
    counts_GE = np.repeat([[800, 400, 200, 200], [200, 200, 800, 400], [200, 400, 200, 800]], 2, axis=1)
    loads = write_loads(expert_loads(counts_GE[:, None]), tmp_path / "loads.json")
    _, printed, _ = place("--loads", loads, "--devices", 2, "--out", tmp_path / "p.json")
    assert "is worse here" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--devices", 17), "num_devices = 17 is not allowed: at most the 16 experts"),
        (("--devices", 1), "num_devices = 1"),
        (("--devices", -2), "num_devices = -2"),
        (("--devices", 4, "--replicas", -1), "replicas = -1"),
        (("--devices", 4, "--replicas", 49), "replicas = 49 is not allowed: from 0 to 48"),
        (("--devices", 4, "--replicas", 0, "--method", "replicated"), "replicas = 0"),
        (("--devices", 4, "--method", "best"), "auto, contiguous, round_robin, load_balanced, vector"),
        (("--devices", 4, "--noise", 9), "noise = 9.0"),
        (("--devices", 4, "--loads", "no/such/file.json"), "no/such/file.json"),
        (("--devices", 4, "--loads", "no/such/file.txt"), "ends in .json or .npz"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(place, tmp_path, arguments, message):
    out = tmp_path / "p.json"
    status, printed, error = place("--loads", loads_file(tmp_path), *arguments, "--out", out)
    assert (status, printed) == (2, "")
    assert message in error
    assert not out.exists()


def test_loads_without_domains_are_refused(place, tmp_path):
    loads = loads_file(tmp_path, num_domains=0)
    status, _, error = place("--loads", loads, "--devices", 4, "--out", tmp_path / "p.json")
    assert status == 2
    assert "tags of the loads" in error
    assert "at least one" in error
