"""`evenmoe bench model` as it is typed: what it prints and writes, and what it refuses."""

import json
from functools import partial

import pytest

SIZES = ("--devices", 2, "--batch-size", 1, "--prompt-tokens", 16, "--new-tokens", 2, "--repeats", 1)


@pytest.fixture
def bench(evenmoe):
    """Run `evenmoe bench model ...` in this process; gives (exit status, standard output, standard error)."""
    return partial(evenmoe, "bench", "model")


def test_a_checkpoint_is_timed_on_text(bench, tiny_checkpoint, text_files, tmp_path):
    texts = [argument for path in text_files for argument in ("--text", path)]
    data, trace = tmp_path / "model.json", tmp_path / "trace.json"
    status, out, err = bench(
        tiny_checkpoint, *texts, *SIZES, "--policy", "fill", "--gamma", 1, "--json", data, "--trace", trace
    )
    assert status == 0, err
    assert "Prefill of 16 tokens per row" in out
    assert "Decode, mean of 2 steps" in out
    body = json.loads(data.read_text())
    assert [(row["part"], row["policy"]) for row in body["rows"]] == [
        ("prefill", "No limit"), ("prefill", "Fill"), ("decode", "No limit"), ("decode", "Fill")
    ]  # fmt: skip
    assert body["config"]["routing"] == "the model's own, on text"
    assert body["config"]["dtype"] == "float32"  # what "auto" came to
    assert "slowest device" in body["composition"]
    assert body["versions"]["torch"]
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"expert", "wait", "process_name"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("olmoe",), "--skew"),
        (("olmoe", "--skew", 9), "from 1 to 8"),
        (("olmoe", "--skew", 2, "--text", "a.txt"), "random weights read no text"),
        (("olmoe", "--skew", 2, "--mode", "ranks"), "--ranks N"),
        (("olmoe", "--skew", 2, "--mode", "emulated", "--ranks", 2), "--devices says how many"),
        (("olmoe", "--skew", 2, "--ranks", 2, "--devices", 4), "the 2 ranks"),
        (("olmoe", "--skew", 2, "--ranks", 2, "--link-gb-s", 5), "computed link"),
        (("olmoe", "--skew", 2, "--mode", "predicted"), "emulated, ranks"),
        (("olmoe", "--skew", 2, "--experts", "fast"), "auto, eager"),
        (("olmoe", "--skew", 2, "--dtype", "float8"), "float32"),
        (("olmoe", "--skew", 2, "--gamma", 1, "--gamma", 1), "each value once"),
        (("olmoe", "--skew", 2, "--devices", 65), "at most the 64 experts"),
        (("MODEL", "--layers", 2), "its own layers"),
        (("MODEL", "--skew", 2), "its own layers"),
        (("MODEL", "--devices", 9), "at most the 8 experts"),
        (("no/such/folder", "--devices", 2), "no/such/folder"),
        (("bundled:poetry",), "poetry"),
    ],
)
def test_wrong_input_is_one_clear_line_and_status_2(bench, tiny_checkpoint, arguments, message):
    given = [tiny_checkpoint if argument == "MODEL" else argument for argument in arguments]
    status, out, err = bench(*given, "--prompt-tokens", 16, "--batch-size", 1)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out


def test_help_names_the_parts(bench):
    status, out, _ = bench("--help")
    assert status == 0
    assert "prefill and decode apart" in " ".join(out.split())
