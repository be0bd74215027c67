"""Loads added up: those of the parts are those of the whole, and packed loads are read back exactly."""

from dataclasses import replace

import numpy as np
import pytest

from evenmoe.errors import FileFormatError, ShapeError
from evenmoe.loads import ExpertLoads, LoadCounts, StepPeaks, pack_loads, sum_loads, unpack_loads


def made(seed: int, tags: tuple[str, ...] = ("a",), num_devices: int = 2) -> ExpertLoads:
    rng = np.random.default_rng(seed)

    def counts() -> LoadCounts:
        before_LE = rng.integers(1, 100, (3, 4))
        return replace(LoadCounts.undropped(before_LE, 2), gate_mass_kept_L=rng.random(3))

    return ExpertLoads(
        layers=("x", "y", "z"),
        num_experts_L=np.array([4, 4, 4]),
        top_k=2,
        total=counts(),
        by_tag={tag: counts() for tag in tags},
        peaks=StepPeaks(
            num_devices=num_devices,
            steps_L=rng.integers(1, 9, 3),
            expert_before_L=rng.random(3),
            expert_after_L=rng.random(3),
            device_before_L=rng.random(3),
            device_after_L=rng.random(3),
        ),
    )


def test_a_worked_sum_adds_counts_by_tag_and_peaks():
    one, two = made(1, ("a", "b")), made(2, ("b", "c"))
    both = sum_loads([one, two])
    assert (both.total.before_LE == one.total.before_LE + two.total.before_LE).all()
    assert list(both.by_tag) == ["a", "b", "c"]
    assert (both.by_tag["a"].kept_L == one.by_tag["a"].kept_L).all()
    assert (both.by_tag["b"].kept_L == one.by_tag["b"].kept_L + two.by_tag["b"].kept_L).all()
    assert (both.peaks.device_after_L == one.peaks.device_after_L + two.peaks.device_after_L).all()
    assert (both.peaks.steps_L == one.peaks.steps_L + two.peaks.steps_L).all()


def test_packed_loads_come_back_to_the_bit_and_pack_the_same():
    loads = made(3, ("a", "β"))
    packed = pack_loads(loads)
    again = unpack_loads(packed)
    assert pack_loads(again) == packed
    for (name, ours), (other, theirs) in zip(loads, again, strict=True):
        assert name == other
        assert all((array == theirs.arrays()[field]).all() for field, array in ours.arrays().items())
    with pytest.raises(FileFormatError, match="not packed loads"):
        unpack_loads(packed[:-20])


def test_without_the_peaks_of_one_part_the_sum_has_none():
    assert sum_loads([made(1), replace(made(2), peaks=None)]).peaks is None


@pytest.mark.parametrize(
    "parts",
    [[], [made(1), replace(made(2), layers=("x", "y", "w"))], [made(1), made(2, num_devices=4)]],
    ids=["none", "layers", "devices"],
)
def test_what_does_not_fit_together_is_refused(parts):
    with pytest.raises(ShapeError):
        sum_loads(parts)
