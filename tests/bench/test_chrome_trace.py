"""The Chrome trace has the schema that viewers read, and times that lie on one clock."""

import json

from evenmoe.bench.phases import LayerRecord, Segment
from evenmoe.bench.trace import TracedPass, chrome_trace, write_trace


def traced_pass(rank, start_ns):
    segments = (
        Segment(phase="gate", start_ns=start_ns, wall_ns=2_000, cpu_ns=1_500),
        Segment(phase="expert", start_ns=start_ns + 2_000, wall_ns=8_000, cpu_ns=8_000),
    )
    return TracedPass(
        record=LayerRecord(rank=rank, step=1, layer=0, segments=segments), label="Fill", pairs=40 + rank
    )


def test_trace_is_what_viewers_read(tmp_path):
    trace = chrome_trace([traced_pass(0, 5_000), traced_pass(1, 6_000)], {"mode": "ranks"})
    path = write_trace(trace, tmp_path / "new" / "trace.json")
    body = json.loads(path.read_text())
    assert set(body) == {"traceEvents", "displayTimeUnit", "otherData"}
    names = [e["args"]["name"] for e in body["traceEvents"] if e["ph"] == "M"]
    assert names == ["rank 0", "rank 1"]
    events = [e for e in body["traceEvents"] if e["ph"] == "X"]
    assert len(events) == 2 * 3
    for event in events:
        assert {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"} <= set(event)
        assert event["ts"] >= 0
        assert {"rank", "layer", "step", "policy"} <= set(event["args"])
        assert event["pid"] == event["args"]["rank"]


def test_times_are_microseconds_from_the_earliest_and_phases_lie_within_the_layer():
    events = chrome_trace([traced_pass(0, 5_000), traced_pass(1, 6_000)], {})["traceEvents"]
    own = [e for e in events if e["ph"] == "X" and e["pid"] == 1]
    layer, gate, expert = own
    assert (layer["ts"], layer["dur"]) == (1.0, 10.0)
    assert (gate["ts"], gate["dur"]) == (1.0, 2.0)
    assert (expert["ts"], expert["dur"]) == (3.0, 8.0)
    assert expert["args"]["pairs"] == 41
    assert "pairs" not in gate["args"]


def test_an_empty_trace_is_still_a_trace():
    assert chrome_trace([], {})["traceEvents"] == []
