"""Scheduling snapshots as files: exact, and whatever else lies in their place is no snapshot and no crash."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import FileFormatError, ShapeError
from evenmoe.serving.observation.scheduling_file import (
    NAME,
    pack_scheduling_snapshot,
    read_scheduling_snapshot,
    unpack_scheduling_snapshot,
    write_scheduling_snapshot,
)
from evenmoe.serving.observation.scheduling_snapshot import Histogram, SchedulingSnapshot
from evenmoe.serving.observation.spool import Spool

COUNTS = st.integers(0, 2**53)


@st.composite
def histograms(draw):
    bounds = tuple(sorted(draw(st.sets(st.floats(0, 1e6), max_size=4))))
    counts = draw(st.lists(COUNTS, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return Histogram(bounds=bounds, counts=tuple(counts), sum=draw(st.floats(0, 1e12)))


SNAPSHOTS = st.builds(
    SchedulingSnapshot,
    strategy=st.text(max_size=10),
    num_waiting=COUNTS,
    num_running=COUNTS,
    num_admitted=COUNTS,
    passed_over=histograms(),
    scheduling_s=histograms(),
    prediction_error=st.dictionaries(st.sampled_from(["plain", "corrected", "mean"]), st.floats(0, 2)),
    num_feedback=COUNTS,
    num_unaligned=COUNTS,
)
EMPTY = Histogram(bounds=(1.0,), counts=(0, 0), sum=0.0)
PLAIN = SchedulingSnapshot(
    strategy="auto", num_waiting=0, num_running=0, num_admitted=0, passed_over=EMPTY, scheduling_s=EMPTY
)


@given(SNAPSHOTS)
def test_packing_is_exact(snapshot):
    assert unpack_scheduling_snapshot(pack_scheduling_snapshot(snapshot)) == snapshot


def test_the_spool_keeps_the_latest(tmp_path):
    spool = Spool(tmp_path)
    assert read_scheduling_snapshot(spool) is None
    write_scheduling_snapshot(PLAIN, spool)
    assert read_scheduling_snapshot(spool) == PLAIN


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"format": "evenmoe.scheduling", "version": 2}',
        b'{"format": "evenmoe.scheduling", "version": 1}',
        pack_scheduling_snapshot(PLAIN)[:-1],
        pack_scheduling_snapshot(PLAIN).replace(b'"num_waiting": 0', b'"num_waiting": "many"'),
        pack_scheduling_snapshot(PLAIN).replace(b"[0, 0]", b"[0, 0, 0]"),
    ],
)
def test_foreign_files_are_logged_and_none(foreign, tmp_path, caplog):
    with pytest.raises(FileFormatError):
        unpack_scheduling_snapshot(foreign)
    spool = Spool(tmp_path)
    spool.write(NAME, foreign)
    with caplog.at_level(logging.WARNING):
        assert read_scheduling_snapshot(spool) is None
    assert NAME in caplog.text


def test_the_file_is_json():
    assert json.loads(pack_scheduling_snapshot(PLAIN))["snapshot"]["strategy"] == "auto"


def test_histograms_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="one more"):
        Histogram(bounds=(1.0, 2.0), counts=(0, 0), sum=0.0)
    with pytest.raises(ShapeError, match="rise"):
        Histogram(bounds=(2.0, 1.0), counts=(0, 0, 0), sum=0.0)
