"""Loads snapshots as files: exact, and whatever else lies in their place is no snapshot and no crash."""

import logging
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import FileFormatError, ShapeError
from evenmoe.loads import device_load, pack_loads
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.sites import Site
from evenmoe.placement import Placement
from evenmoe.serving.observation.loads_file import (
    NAME,
    LatestLoads,
    pack_loads_snapshot,
    read_loads_snapshot,
    unpack_loads_snapshot,
    write_loads_snapshot,
)
from evenmoe.serving.observation.loads_snapshot import DeviceShares, LoadsSnapshot
from evenmoe.serving.observation.spool import Spool
from tests.serving.observation.counting import Counting


def snapshot(counting, *, num_tokens=7, num_requests=3, by_tag=None):
    return LoadsSnapshot.of(
        counting.loads(by_tag),
        counting.placement,
        num_steps=len(counting.steps),
        num_tokens=num_tokens,
        num_requests=num_requests,
    )


def same(left, right):
    assert (left.num_steps, left.num_tokens, left.num_requests) == (
        right.num_steps,
        right.num_tokens,
        right.num_requests,
    )
    np.testing.assert_array_equal(left.before_LD, right.before_LD)
    np.testing.assert_array_equal(left.after_LD, right.after_LD)
    assert pack_loads(left.loads) == pack_loads(right.loads)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path)


@pytest.fixture
def full():
    counting = Counting()
    counting.step([[5, 1, 0, 2], [2, 2, 2, 2]], [[3, 1, 0, 2], [2, 2, 2, 2]])
    return snapshot(counting)


@settings(max_examples=40)
@given(
    st.integers(1, 3).flatmap(
        lambda num_layers: st.lists(
            st.lists(
                st.lists(st.integers(0, 10**12), min_size=4, max_size=4),
                min_size=num_layers,
                max_size=num_layers,
            ),
            max_size=3,
        ).map(lambda steps: (num_layers, steps))
    ),
    st.sampled_from([None, [0, 1, 1, 0], [[0, 1], 0, 1, [0, 1]]]),
)
def test_packing_is_exact(layers_and_steps, row):
    num_layers, steps = layers_and_steps
    counting = Counting(num_layers=num_layers, rows=None if row is None else [row] * num_layers)
    for step in steps:
        counting.step(step)
    packed = pack_loads_snapshot(snapshot(counting))
    assert packed == pack_loads_snapshot(snapshot(counting))
    same(unpack_loads_snapshot(packed), snapshot(counting))


def test_device_loads_are_the_recorders(full):
    # a recorder's peak of one step is the busiest device of that step: both take copies' shares alike
    placement = Placement.of([[[0, 1, 2], 1, 2, [0, 2]]], 3)
    site = Site(
        name="0",
        architecture="a",
        kind="contract",
        block=torch.nn.Module(),
        router=torch.nn.Module(),
        experts=None,
        num_experts=4,
        num_free_experts=0,
        top_k=2,
    )
    recorder = LoadRecorder([site], placement)
    scores_TE = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0, 0, 0.2])
    chosen_TE = torch.zeros(50, 4, dtype=torch.bool).scatter_(1, scores_TE.topk(2).indices, True)
    kept_TE = chosen_TE & (scores_TE > 0.6)
    recorder.layer(0, torch.device("cpu")).add(
        chosen_TE=chosen_TE,
        kept_TE=kept_TE,
        free_T=None,
        real_T=None,
        scores_TE=scores_TE,
        group_T=None,
        num_groups=1,
    )
    loads = recorder.loads("a test")
    found = LoadsSnapshot.of(loads, placement, num_steps=1, num_tokens=50, num_requests=1)
    assert loads.peaks is not None
    assert found.before_LD.max() == pytest.approx(loads.peaks.device_before_L[0])
    assert found.after_LD.max() == pytest.approx(loads.peaks.device_after_L[0])
    assert found.before_LD.sum() == pytest.approx(100)


def test_device_loads_by_hand():
    counting = Counting(num_layers=1, num_devices=3, rows=[[[0, 1, 2], 0, 1, [0, 2]]])
    counting.step([[6, 1, 2, 4]])
    np.testing.assert_allclose(snapshot(counting).before_LD, [[2 + 1 + 2, 2 + 2, 2 + 2]])


@given(st.data())
def test_device_loads_are_those_of_each_layer(data):
    # also of layers with unlike numbers of experts
    num_experts_L = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    copies = st.sets(st.integers(0, 2), min_size=1).map(sorted)
    rows = [data.draw(st.lists(copies, min_size=size, max_size=size)) for size in num_experts_L]
    placement = Placement.of(rows, 3)
    load_LE = np.zeros((len(rows), max(num_experts_L)), dtype=np.int64)
    for layer, size in enumerate(num_experts_L):
        load_LE[layer, :size] = data.draw(st.lists(st.integers(0, 99), min_size=size, max_size=size))
    found_LD = DeviceShares(placement).load(load_LE)
    for layer, size in enumerate(num_experts_L):
        one_D = device_load(load_LE[layer, :size], placement.holds(layer), 3)
        np.testing.assert_allclose(found_LD[layer], one_D)


def test_tags_stay_behind(full):
    # a tag may be a request
    counting = Counting()
    counting.step([[5, 1, 0, 2], [2, 2, 2, 2]])
    tagged = snapshot(counting, by_tag={"request 7": counting.loads().total})
    assert dict(tagged.loads.by_tag) == {}
    assert b"request 7" not in pack_loads_snapshot(tagged)


def test_a_placement_of_other_layers_is_refused():
    counting = Counting(num_layers=2)
    with pytest.raises(ShapeError, match=r"loads are \(2, 4\); the placement is of \(3, 4\)"):
        LoadsSnapshot.of(
            counting.loads(), Counting(num_layers=3).placement, num_steps=0, num_tokens=0, num_requests=0
        )


def test_the_spool_keeps_the_latest(spool, full):
    assert read_loads_snapshot(spool) is None
    write_loads_snapshot(snapshot(Counting()), spool)
    write_loads_snapshot(full, spool)
    found = read_loads_snapshot(spool)
    assert found is not None
    same(found, full)
    assert [path.name for path in spool.folder.iterdir()] == [NAME]


def test_half_a_file_is_no_snapshot(full):
    packed = pack_loads_snapshot(full)
    for end in range(0, len(packed), 97):
        with pytest.raises(FileFormatError):
            unpack_loads_snapshot(packed[:end])


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_raises_nothing_else(data):
    packed = bytearray(pack_loads_snapshot(snapshot(Counting())))
    for place in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=20)):
        packed[place] = data.draw(st.integers(0, 255))
    with suppress(FileFormatError):
        unpack_loads_snapshot(bytes(packed))


def test_foreign_files_are_logged_and_none(spool, full, caplog):
    counting = Counting()
    for foreign in (b"", b"hello", b"{}", pack_loads(counting.loads()), np.arange(3).tobytes()):
        spool.write(NAME, foreign)
        with caplog.at_level(logging.WARNING):
            assert read_loads_snapshot(spool) is None
        assert NAME in caplog.text
        caplog.clear()


def test_negative_counts_are_refused(full):
    bad = snapshot(Counting(), num_tokens=-1)
    with pytest.raises(FileFormatError, match="negative"):
        unpack_loads_snapshot(pack_loads_snapshot(bad))


def test_the_latest_is_read_once(spool, full, monkeypatch):
    latest = LatestLoads(spool)
    assert latest() is None
    write_loads_snapshot(full, spool)
    first = latest()
    assert first is not None
    assert latest() is first
    write_loads_snapshot(full, spool)
    again = latest()
    assert again is not None
    assert again is not first
    (spool.folder / NAME).unlink()
    assert latest() is None
    write_loads_snapshot(full, spool)
    assert latest() is not None


def test_a_spool_that_is_gone_reads_as_nothing(tmp_path, full):
    spool = Spool(tmp_path / "gone")
    assert read_loads_snapshot(spool) is None
    assert LatestLoads(spool)() is None
    with pytest.raises(FileNotFoundError):
        write_loads_snapshot(full, spool)
