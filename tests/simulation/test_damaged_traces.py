"""Every damaged trace is refused before anything runs, naming file, line, field and value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import FileFormatError
from evenmoe.simulation.workloads.traces import read_trace
from tests.simulation.trace_cases import AZURE, MOONCAKE, OWN, written

LONG_INTEGER = "9" * 5000

DAMAGED_OWN = {
    "unsorted": (("0.75,", "0.25,"), 3, "arrived_s = '0.25'"),
    "negative time": (("0.5,", "-0.5,"), 2, "arrived_s = '-0.5'"),
    "not a number": (("0.5,", "nan,"), 2, "arrived_s = 'nan'"),
    "infinite": (("2.5,", "inf,"), 4, "arrived_s = 'inf'"),
    "a word": (("0.5,", "noon,"), 2, "arrived_s = 'noon'"),
    "underscores": (("2.5,", "2_5,"), 4, "arrived_s = '2_5'"),
    "no time": (("0.5,", ","), 2, "arrived_s = ''"),
    "zero prompt": ((",12,", ",0,"), 2, "prompt_tokens = '0'"),
    "negative prompt": ((",12,", ",-12,"), 2, "prompt_tokens = '-12'"),
    "half a token": ((",12,", ",12.5,"), 2, "prompt_tokens = '12.5'"),
    "NaN prompt": ((",12,", ",nan,"), 2, "prompt_tokens = 'nan'"),
    "too long": ((",12,", f",{LONG_INTEGER},"), 2, "prompt_tokens = '999"),
    "over the most": ((",12,", ",1000000001,"), 2, "prompt_tokens = '1000000001'"),
    "no prompt": ((",12,", ",,"), 2, "prompt_tokens = ''"),
    "zero output": ((",90,", ",0,"), 4, "output_tokens = '0'"),
    "no topic": (("news", " "), 3, "topic = ' '"),
    "a field too few": ((",news", ""), 3, "row = '0.75,40,1'"),
    "a field too many": (("news", "news,x"), 3, "row = '0.75,40,1,news,x'"),
    "truncated row": (("90,code\n", ""), 4, "row = '2.5,7,'"),
    "truncated number": (
        (",topic\n0.5,12,3,code\n0.75,40,1,news\n2.5,7,90,code\n", "\n1,2,34"),
        2,
        "last line = '1,2,34'",
    ),
    "no time column": (("arrived_s", "time"), 1, "a column arrived_s"),
    "no prompt column": (("prompt_tokens", "prompts"), 1, "a column prompt_tokens"),
    "no output column": (("output_tokens", "outputs"), 1, "a column output_tokens"),
    "an unknown column": (("topic", "topics"), 1, "arrived_s,prompt_tokens,output_tokens,topics"),
    "a column twice": (("topic", "arrived_s"), 1, "each once"),
    "no header": ((OWN.split("\n")[0] + "\n", ""), 1, "header = '0.5,12,3,code'"),
    "an open quote": (("news", '"news'), 4, "row"),
    "no request": ((OWN.split("\n", 1)[1], ""), 1, "ends without a request"),
}
DAMAGED_AZURE = {
    "unsorted": (
        ("00:00:00.4799600,110", "00:00:00.3799600,110"),
        4,
        "TIMESTAMP = '2023-11-17 00:00:00.3799600'",
    ),
    "before the first": (("2023-11-17 00:00:00.4799600,3180", "2023-11-15 00:00:00,3180"), 3, "TIMESTAMP"),
    "NaN": (("2023-11-16 23:59:59.9799600", "NaN"), 2, "TIMESTAMP = 'NaN'"),
    "no such day": (("2023-11-16", "2023-11-31"), 2, "TIMESTAMP = '2023-11-31"),
    "one time zone": (("23:59:59.9799600", "23:59:59.97+00:00"), 3, "TIMESTAMP"),
    "zero prompt": ((",4808,", ",0,"), 2, "ContextTokens = '0'"),
    "negative output": ((",8\r", ",-8\r"), 3, "GeneratedTokens = '-8'"),
    "NaN output": ((",8\r", ",nan\r"), 3, "GeneratedTokens = 'nan'"),
    "truncated last line": ((",110,27", ",110"), 4, "row = '2023-11-17 00:00:00.4799600,110'"),
    "truncated after the comma": ((",110,27", ",110,"), 4, "GeneratedTokens = ''"),
    "a missing column": (("GeneratedTokens", "Generated"), 1, "header"),
    "a column twice": (("TIMESTAMP,", "TIMESTAMP,TIMESTAMP,"), 1, "header"),
    "no request": ((AZURE.split("\n", 1)[1], ""), 1, "ends without a request"),
    "a null byte": (("4808", "48\0"), 2, ""),
}
DAMAGED_MOONCAKE = {
    "unsorted": (("6027", "2999"), 3, "timestamp = 2999"),
    "negative": (("3000", "-3"), 1, "timestamp = -3"),
    "NaN": (("6027", "NaN"), 3, "timestamp = nan"),
    "infinite": (("6027", "Infinity"), 3, "timestamp = inf"),
    "a text": (("6027", '"6027"'), 3, "timestamp = '6027'"),
    "a truth": (("3000", "true"), 1, "timestamp = True"),
    "too large": (("6027", "9" * 400), 3, "timestamp = 999"),
    "zero input": (("6758", "0"), 1, "input_length = 0"),
    "a fraction": (("7322", "7322.0"), 2, "input_length = 7322.0"),
    "zero output": (('"output_length": 1,', '"output_length": 0,'), 2, "output_length = 0"),
    "null output": (('"output_length": 16', '"output_length": null'), 3, "output_length = None"),
    "truth output": (('"output_length": 16', '"output_length": true'), 3, "output_length = True"),
    "no time": (('"timestamp": 6027, ', ""), 3, "a field timestamp"),
    "no input": (('"input_length": 900, ', ""), 3, "a field input_length"),
    "no output": (('"output_length": 16, ', ""), 3, "a field output_length"),
    "truncated last line": ((", 3]}", ", 3"), 3, "JSON = "),
    "not JSON": (('{"timestamp": 6027', "timestamp: 6027"), 3, "JSON = "),
    "a list": ((MOONCAKE.split("\n")[1], "[3000, 7322, 1]"), 2, "JSON = [3000, 7322, 1]"),
    "a deep list": ((MOONCAKE.split("\n")[1], "[" * 100_000), 2, "JSON = "),
    "blocks no list": (("[0, 14]", "14"), 2, "hash_ids = 14"),
    "no blocks": (("[0, 14]", "[]"), 2, "hash_ids = []"),
    "blocks of text": (("[0, 14]", '["0"]'), 2, "hash_ids = ['0']"),
    "blocks from the second on": ((', "hash_ids": [0, 1, 2]', ""), 2, "hash_ids = [0, 14]"),
    "null blocks": (("[0, 1, 2]", "null"), 1, "hash_ids = None"),
    "blocks left out": ((', "hash_ids": [0, 14]', ""), 2, "hash_ids = None"),
}
CASES = [
    pytest.param(name, text, *case, id=f"{kind}: {what}")
    for kind, name, text, cases in (
        ("own", "a.csv", OWN, DAMAGED_OWN),
        ("azure", "a.csv", AZURE, DAMAGED_AZURE),
        ("mooncake", "a.jsonl", MOONCAKE, DAMAGED_MOONCAKE),
    )
    for what, case in cases.items()
]


def refusal(path) -> str:
    with pytest.raises(FileFormatError) as refused:
        read_trace(path)
    return str(refused.value)


@pytest.mark.parametrize(("name", "text", "change", "line", "says"), CASES)
def test_damage_is_named(tmp_path, name, text, change, line, says):
    damaged = text.replace(*change, 1)
    assert damaged != text
    path = written(tmp_path, name, damaged)
    message = refusal(path)
    assert f"{path}, line {line}: " in message
    assert says in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_empty_files_and_bytes_that_are_no_text(tmp_path, name):
    assert "is empty" in refusal(written(tmp_path, name, ""))
    assert "is empty" in refusal(written(tmp_path, name, " \n\n"))
    path = tmp_path / name
    path.write_bytes((OWN if name == "a.csv" else MOONCAKE).encode().replace(b"3", b"\xff", 1))
    line = 2 if name == "a.csv" else 1
    assert f"{path}, line {line}: byte 0xff" in refusal(path)


def test_other_suffixes_and_damaged_archives(tmp_path):
    for name in ("a.txt", "a", "a.csv.zip", "a.gz", "a.json"):
        assert "its name must end in .csv or .jsonl" in refusal(written(tmp_path, name, OWN))
    path = written(tmp_path, "a.csv.gz", OWN)
    for body in (path.read_bytes()[:-9], b"no archive", path.read_bytes()[:20] + b"?" * 40):
        path.write_bytes(body)
        assert "cannot be unpacked" in refusal(path)
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "b.csv")


@settings(max_examples=150)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused_or_holds_whole_requests(tmp_path_factory, data):
    name, text = data.draw(st.sampled_from([("a.csv", OWN), ("a.jsonl", MOONCAKE)]))
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    folder = tmp_path_factory.mktemp("cut")
    try:
        trace = read_trace(written(folder, name, cut))
    except FileFormatError:
        return
    whole = read_trace(written(folder, name, text))
    for column in ("times_s", "prompt_tokens", "output_tokens"):
        assert getattr(trace, column).tolist() == getattr(whole, column).tolist()[: len(trace)]


def test_a_cut_last_number_of_azures_cannot_be_told(tmp_path):
    """The published files' last line has no end, so none can be asked for."""
    assert read_trace(written(tmp_path, "a.csv", AZURE[:-1])).output_tokens.tolist() == [10, 8, 2]
