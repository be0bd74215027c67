"""Machine files: exact round trips, faults that are named, the machines that ship, curves and rooflines."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evenmoe.costs import SHAPES, Machine, machine_names, read_machine
from evenmoe.costs.parts import ExpertCurve, HeldOut, HeldOutPoint, line_through
from evenmoe.errors import ConfigError, FileFormatError
from tests.costs.cost_cases import MACHINE, body, curve
from tests.oracles.costs import expert_ms


def test_round_trip_is_exact(tmp_path):
    point = HeldOutPoint(shape="small", tokens_E=(1, 0, 5), measured_ms=2.0, predicted_ms=2.2)
    machine = Machine(**body(heldout=HeldOut.of((point,)), versions={"torch": "2"}))
    path = machine.write(tmp_path / "new" / "machine.json")
    assert read_machine(path) == machine
    assert machine.write(tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert sorted(os.listdir(path.parent)) == ["machine.json"]


def test_heldout_errors_are_relative_to_what_was_measured():
    points = tuple(
        HeldOutPoint(shape="s", tokens_E=(1,), measured_ms=m, predicted_ms=p)
        for m, p in ((2, 1), (4, 5), (10, 11))
    )
    held = HeldOut.of(points)
    assert held.largest_error == pytest.approx(0.5)
    assert held.median_error == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"version": 2}, "version"),
        ({"source": "guessed"}, "source"),
        ({"ranks": 0}, "ranks"),
        ({"policies": {}}, "policies"),
        ({"experts": []}, "needs experts"),
        ({"link": {"fixed_ms": 1, "bytes_per_s": 0}}, "link.bytes_per_s"),
        ({"pack": {"fixed_ms": -1, "bytes_per_s": 1}}, "pack.fixed_ms"),
        ({"barrier_ms": "soon"}, "barrier_ms"),
        ({"experts": [{**curve(4, (1, 1), (2, 2)), "dtype": "int8"}]}, "experts.0.dtype"),
        ({"experts": [curve(4, (1, 1))]}, "at least 2 knots"),
        ({"experts": [curve(4, (2, 1), (1, 2))]}, "ascending tokens"),
        ({"experts": [curve(4, (1, 2), (2, 1))]}, "do not fall"),
        ({"experts": [curve(4, (0, 2), (2, 3))]}, "above 0"),
        ({"source": "datasheet", "experts": []}, "roofline"),
    ],
)
def test_a_fault_in_a_file_is_named(tmp_path, change, named):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(json.loads(MACHINE.model_dump_json()) | change))
    with pytest.raises(FileFormatError, match=named) as raised:
        read_machine(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "named"), [("{", "not JSON"), ("[]", "format"), ('{"format": "evenmoe.loads"}', "evenmoe.loads")]
)
def test_other_files_are_refused(tmp_path, text, named):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=named):
        read_machine(path)


def test_unknown_names_list_those_that_ship(tmp_path):
    with pytest.raises(ConfigError, match="h100-node, h20-node"):
        read_machine("h900")
    with pytest.raises(FileNotFoundError):
        read_machine(tmp_path / "absent.json")


@pytest.mark.parametrize("name", machine_names())
def test_shipped_machines_are_flagged_as_not_measured(name):
    machine = read_machine(name)
    assert machine.source == "datasheet"
    assert machine.heldout is None
    assert any("Not measured" in note for note in machine.notes)
    assert any("datasheet" in note or "published" in note for note in machine.notes)
    assert machine.ranks == 8
    for shape in SHAPES.values():
        assert machine.expert_ms(shape.hidden, shape.intermediate, "bfloat16", 1) > 0


def test_shipped_machines_have_the_published_peaks():
    h100, h20 = read_machine("h100-node").roofline, read_machine("h20-node").roofline
    assert (h100.flops_per_s["bfloat16"], h100.memory_bytes_per_s) == (989e12, 3.35e12)
    assert (h20.flops_per_s["bfloat16"], h20.memory_bytes_per_s) == (148e12, 4.0e12)


def test_a_datasheet_machine_cannot_claim_measurements():
    known = json.loads(read_machine("h20-node").model_dump_json())
    with pytest.raises(ValidationError, match="measured"):
        Machine(**known | {"experts": [curve(4, (1, 1), (2, 2))]})
    with pytest.raises(ValidationError, match="name the datasheet"):
        Machine(**known | {"notes": []})


knots = st.lists(
    st.tuples(st.integers(1, 50), st.floats(0.01, 9)), min_size=2, max_size=6, unique_by=lambda knot: knot[0]
).map(lambda pairs: tuple(zip(*(sorted(part) for part in zip(*pairs, strict=True)), strict=True)))


@given(knots=knots, tokens=st.lists(st.floats(0, 200), min_size=1, max_size=5))
def test_curve_equals_the_oracle_and_never_falls(knots, tokens):
    found = ExpertCurve(**curve(4, *knots)).expert_ms([tokens])
    assert found.shape == (1, len(tokens))
    assert found[0].tolist() == pytest.approx([expert_ms(knots, n) for n in tokens])
    assert (np.diff(ExpertCurve(**curve(4, *knots)).expert_ms(sorted(tokens))) >= -1e-9).all()


def test_roofline_by_hand():
    """One token of OLMoE on an H20 streams the weights; 4096 tokens are arithmetic, at 80% of the peak."""
    machine = read_machine("h20-node")
    weights = 3 * 2048 * 1024
    one = (weights + 2 * 2048 + 6 * 1024) * 2 / (4.0e12 * 0.8) * 1000
    many = 2 * weights * 4096 / (148e12 * 0.8) * 1000
    found = machine.expert_ms(2048, 1024, "bfloat16", [0, 0.5, 1, 4096])
    assert found.tolist() == pytest.approx([0, one / 2, one, many])


def test_roofline_refuses_a_dtype_without_a_peak():
    roofline = read_machine("h20-node").roofline.model_copy(update={"flops_per_s": {"bfloat16": 1e12}})
    machine = read_machine("h20-node").model_copy(update={"roofline": roofline})
    with pytest.raises(ConfigError, match="float32"):
        machine.expert_ms(8, 4, "float32", 1)


@given(fixed=st.floats(0, 10), slope=st.floats(0, 5))
def test_a_straight_line_is_found_exactly(fixed, slope):
    work = np.array([1, 2, 8, 50.0])
    times = fixed + slope * work
    if times.min() < 1e-3:
        return
    found = line_through(work, times)
    assert found[0] + found[1] * work == pytest.approx(times, rel=1e-6)
    assert found[2] == pytest.approx(0, abs=1e-6)


def test_a_line_never_has_a_negative_coefficient():
    falling = line_through([1, 2, 3], [3.0, 2.0, 1.0])
    convex = line_through([1, 10, 100], [0.1, 5.0, 100.0])
    assert falling[0] > 0 == falling[1]
    assert convex[0] == 0 < convex[1]
    assert line_through([1, 2, 3], [3.0, 2.0, 1.0], least_slope=0.1)[1] == 0.1
