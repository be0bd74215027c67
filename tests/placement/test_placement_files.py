"""Placement files: read back exactly, readable, refused when damaged."""

import json

import pytest

from evenmoe.errors import FileFormatError
from evenmoe.placement import Placement, read_placement, write_placement

PLACEMENT = Placement.of(
    [[0, [0, 2], 1], [1, 2, 0]], 3, layers=["layers.0.mlp", "Schicht „1“"], method="vector"
)


def test_read_back_exactly_and_same_bytes(tmp_path):
    path = write_placement(PLACEMENT, tmp_path / "placement.json")
    assert read_placement(path) == PLACEMENT
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "a partial file was left behind"
    again = write_placement(read_placement(path), tmp_path / "again.json")
    assert again.read_bytes() == path.read_bytes()


def test_the_file_is_as_documented(tmp_path):
    body = json.loads(write_placement(PLACEMENT, tmp_path / "placement.json").read_text())
    assert body == {
        "format": "evenmoe.placement",
        "version": 1,
        "method": "vector",
        "num_devices": 3,
        "layers": ["layers.0.mlp", "Schicht „1“"],
        "device_of_expert": [[0, [0, 2], 1], [1, 2, 0]],
    }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: body.update(format="evenmoe.loads"), "format 'evenmoe.loads'"),
        (lambda body: body.update(version=2), "version 2"),
        (lambda body: body.pop("num_devices"), "lacks .'num_devices'"),
        (lambda body: body.update(device=3), "unknown to this version: .'device'"),
        (lambda body: body.update(num_devices=2), "from 0 to 1"),
        (lambda body: body.update(num_devices="3"), "num_devices"),
        (lambda body: body.update(num_devices=None), "num_devices"),
        (lambda body: body.update(method=None), "method is None"),
        (lambda body: body.update(layers=["a"]), "1 layer names for 2 layers"),
        (lambda body: body.update(layers=[1, 2]), "not a list of names"),
        (lambda body: body.update(device_of_expert=[]), "one list per layer"),
        (lambda body: body.update(device_of_expert=[0, 1, 2]), "one list per layer"),
        (lambda body: body["device_of_expert"][0].__setitem__(0, [1, 1]), "different devices"),
        (lambda body: body["device_of_expert"][0].__setitem__(0, 1.0), "a device number"),
        (lambda body: body["device_of_expert"][0].__setitem__(0, None), "a device number"),
        (lambda body: body["device_of_expert"][0].__setitem__(0, []), "a device number"),
        (lambda body: body["device_of_expert"][1].clear(), "at least one expert"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    path = write_placement(PLACEMENT, tmp_path / "placement.json")
    body = json.loads(path.read_text())
    damage(body)
    path.write_text(json.dumps(body))
    with pytest.raises(FileFormatError, match=message) as caught:
        read_placement(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "placement.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="not a placement file"):
        read_placement(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_placement(tmp_path / "none.json")
