"""Phases tile the layer exactly: fake clocks, so that every nanosecond is accounted for."""

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.bench.phases import (
    PHASES,
    PhaseRecorder,
    best_record,
    mean_phases,
    median_record,
    merged,
    shifted,
    to_ms,
)
from evenmoe.errors import AttachError, ConfigError
from evenmoe.models.stopwatch import Phase


class FakeClock:
    """Gives the times that it was told, one per call."""

    def __init__(self, *times_ns):
        self._times = iter(times_ns)

    def __call__(self):
        return next(self._times)


def recorder(*times_ns, cpu_ns=None):
    return PhaseRecorder(rank=3, clock=FakeClock(*times_ns), cpu_clock=FakeClock(*(cpu_ns or times_ns)))


def test_the_phases_are_those_of_the_stopwatch():
    assert get_args(Phase) == PHASES


def test_a_layer_worked_by_hand():
    watch = recorder(100, 103, 110, 150, 160, cpu_ns=(0, 1, 3, 4, 5))
    watch.start(7)
    watch.mark("gate")
    watch.mark("policy")
    watch.mark("expert")
    watch.stop()
    (record,) = watch.records
    assert (record.rank, record.layer, record.wall_ns) == (3, 7, 60)
    assert [s.start_ns for s in record.segments] == [100, 103, 110, 150]
    assert record.by_phase() == dict.fromkeys(PHASES, 0) | {"gate": 3, "policy": 7, "expert": 40, "rest": 10}
    assert record.by_phase("cpu")["policy"] == 2


def test_what_a_block_does_around_its_router_and_experts_is_rest():
    watch = recorder(0, 5, 6, 26, 30)
    watch.begin(step=2)
    watch.start(1)
    watch.mark("gate")
    watch.mark("expert")
    watch.stop()
    watch.end()
    (record,) = watch.records
    assert (record.step, record.layer, record.wall_ns) == (2, 1, 30)
    assert record.by_phase()["rest"] == 5 + 4


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 10**12)), max_size=30), st.booleans())
def test_phases_sum_to_the_layer_whatever_is_marked(marks, with_block):
    steps = [gap for _, gap in marks]
    times = list(itertools.accumulate([17, *steps, 5, 5, 5]))
    watch = PhaseRecorder(clock=FakeClock(*times), cpu_clock=FakeClock(*times))
    if with_block:
        watch.begin(0)
    else:
        watch.start(0)
    for phase, _ in marks:
        watch.mark(phase)
    watch.stop()
    if with_block:
        watch.end()
    (record,) = watch.records
    assert sum(record.by_phase().values()) == record.wall_ns == sum(steps) + 5
    ends = [segment.start_ns + segment.wall_ns for segment in record.segments]
    assert [segment.start_ns for segment in record.segments[1:]] == ends[:-1]
    assert sum(s.wall_ns for s in merged(record.segments)) == record.wall_ns
    assert sum(to_ms(record.by_phase()).values()) == pytest.approx(record.wall_ns / 1e6)


def test_marks_outside_a_layer_are_not_noted():
    watch = recorder()
    watch.mark("expert")
    watch.stop()
    assert watch.records == []


def test_wrong_use_is_refused():
    with pytest.raises(AttachError, match="before it began"):
        recorder().end()
    with pytest.raises(ConfigError, match="gate, policy"):
        recorder().mark("coffee")


def passes_of(*durations_ns):
    records = []
    for gate_ns, expert_ns in durations_ns:
        watch = recorder(0, gate_ns, gate_ns + expert_ns, gate_ns + expert_ns)
        watch.start(0)
        watch.mark("gate")
        watch.mark("expert")
        watch.stop()
        records += watch.records
    return records


def test_passes_are_joined_stretch_by_stretch():
    passes = passes_of((1, 30), (5, 10), (3, 20))
    middle, best = median_record(passes), best_record(passes)
    assert [s.wall_ns for s in middle.segments] == [3, 20, 0]
    assert [s.start_ns for s in middle.segments] == [0, 3, 23]
    assert [s.wall_ns for s in best.segments] == [1, 10, 0]


def test_passes_of_other_phases_are_not_joined():
    watch = recorder(0, 1, 2)
    watch.start(0)
    watch.mark("policy")
    watch.stop()
    with pytest.raises(AttachError, match="different phases"):
        median_record([*passes_of((1, 1)), *watch.records])


def test_records_are_shifted_to_a_common_origin():
    (record,) = shifted(passes_of((2, 3)), -100)
    assert [s.start_ns for s in record.segments] == [100, 102, 105]
    assert record.wall_ns == 5


def test_mean_phases_by_hand():
    rows = [dict.fromkeys(PHASES, 1.0), dict.fromkeys(PHASES, 3.0) | {"wait": 0.0}]
    assert mean_phases(rows)["gate"] == 2.0
    assert mean_phases(rows)["wait"] == 0.5
