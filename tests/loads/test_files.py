"""Loads files: read back exactly, refused when damaged, real recordings imported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.loads import ExpertLoads, LoadCounts, StepPeaks, read_loads, write_loads

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "expert_loads"


def counts(rng: np.random.Generator, num_layers: int = 3, num_experts: int = 4) -> LoadCounts:
    before_LE = rng.integers(0, 100, (num_layers, num_experts))
    after_LE = np.minimum(before_LE, 60)
    return LoadCounts(
        before_LE=before_LE,
        after_LE=after_LE,
        tokens_L=before_LE.sum(-1) // 2,
        kept_L=after_LE.sum(-1),
        gate_mass_before_L=rng.random(num_layers) + 1.0,
        gate_mass_kept_L=rng.random(num_layers),
        tokens_without_expert_L=rng.integers(0, 3, num_layers),
    )


@pytest.fixture
def recorded_loads() -> ExpertLoads:
    rng = np.random.default_rng(0)
    peaks = StepPeaks(
        num_devices=2,
        steps_L=np.array([5, 5, 5]),
        expert_before_L=rng.random(3),
        expert_after_L=rng.random(3),
        device_before_L=rng.random(3),
        device_after_L=rng.random(3),
    )
    return ExpertLoads(
        layers=("layers.0.mlp", "layers.1.mlp", "layers.2.mlp"),
        num_experts_L=np.array([4, 4, 4]),
        top_k=2,
        total=counts(rng),
        by_tag={"scripture": counts(rng), "German, pages/1": counts(rng)},
        peaks=peaks,
        source="a test",
    )


def assert_equal(left: ExpertLoads, right: ExpertLoads) -> None:
    assert (left.layers, left.top_k, left.source) == (right.layers, right.top_k, right.source)
    assert list(left.by_tag) == list(right.by_tag)
    for (_, ours), (_, theirs) in zip(left, right, strict=True):
        for name, array in ours.arrays().items():
            assert array.dtype == theirs.arrays()[name].dtype
            np.testing.assert_array_equal(array, theirs.arrays()[name])
    assert (left.peaks is None) == (right.peaks is None)
    if left.peaks and right.peaks:
        assert left.peaks.num_devices == right.peaks.num_devices
        np.testing.assert_array_equal(left.peaks.device_after_L, right.peaks.device_after_L)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("with_peaks", [True, False])
def test_read_back_exactly(tmp_path, recorded_loads, suffix, with_peaks):
    loads = recorded_loads if with_peaks else replace(recorded_loads, peaks=None)
    path = write_loads(loads, tmp_path / f"loads{suffix}")
    assert_equal(read_loads(path), loads)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "a partial file was left behind"


def test_same_loads_same_bytes(tmp_path, recorded_loads):
    first, second = (
        write_loads(recorded_loads, tmp_path / name).read_bytes() for name in ("a.json", "b.json")
    )
    assert first == second


@pytest.mark.parametrize("name", ["olmoe-1b-7b", "mixtral-8x7b"])
def test_published_recordings_import(name):
    path = RECORDED / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the published recording {path.name} is not beside this checkout")
    loads = read_loads(path)
    raw = json.loads(path.read_text())
    assert set(loads.by_tag) == set(raw["domains"])
    assert loads.total.before_LE.sum() == np.sum([raw["domains"][d] for d in raw["domains"]])
    assert loads.peak_to_mean_before > 1.0
    assert np.isnan(loads.straggler_factor)
    if name == "olmoe-1b-7b":
        code = loads.by_tag["github"].before_LE[1]
        assert code.max() / code.mean() == pytest.approx(6.2, abs=0.05), "layer 7 on code, as documented"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: body.pop("arrays"), "lacks 'arrays'"),
        (lambda body: body.update(version=9), "version 9"),
        (lambda body: body["arrays"].pop("total.before_LE"), "total.before_LE"),
        (lambda body: body["arrays"]["total.before_LE"][0].__setitem__(0, -1), "negative"),
        (lambda body: body["arrays"].update({"total.before_LE": [1, 2]}), "axes"),
        (lambda body: body["arrays"].update({"total.kept_L": [1]}), "1 layers"),
        (lambda body: body["layers"].pop(), "2 layers"),
    ],
)
def test_a_damaged_file_is_refused_with_its_reason(tmp_path, recorded_loads, damage, message):
    path = write_loads(recorded_loads, tmp_path / "loads.json")
    body = json.loads(path.read_text())
    damage(body)
    path.write_text(json.dumps(body))
    with pytest.raises(FileFormatError, match=message):
        read_loads(path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"PK\x03\x04broken"])
@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_other_files_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="is not a loads file"):
        read_loads(path)


def test_unknown_suffix_and_missing_file(tmp_path, recorded_loads):
    with pytest.raises(ConfigError, match=r"\.json or \.npz"):
        write_loads(recorded_loads, tmp_path / "loads.pickle")
    with pytest.raises(FileNotFoundError):
        read_loads(tmp_path / "absent.json")
