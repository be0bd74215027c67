"""Prior files: what is read is what was written, and whatever is wrong is named."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.scheduling.predictors import Calibration, TokenPrior, read_token_prior
from tests.scheduling.predictors.prediction_cases import count, runs


@given(run=runs(), calibrated=st.booleans(), ids=st.lists(st.integers(0, 12), max_size=9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_read_is_what_was_saved(tmp_path, run, calibrated, ids):
    _, _, num_layers, num_experts, _ = run
    change_LEE = np.linspace(-1, 1, num_layers * num_experts**2, dtype=np.float32)
    calibration = (
        Calibration(change_LEE.reshape(num_layers, num_experts, num_experts)) if calibrated else None
    )
    prior = TokenPrior(
        counts=count(*run), shrinkage=0.75, calibration=calibration, model="a model", domains=("a", "b")
    )
    path = prior.save(tmp_path / "prior.npz")
    again = read_token_prior(path)
    np.testing.assert_array_equal(again.predict(ids), prior.predict(ids))
    assert (again.model, again.domains, again.shrinkage) == ("a model", ("a", "b"), 0.75)
    assert again.counts.shape == prior.counts.shape
    assert (again.calibration is None) == (not calibrated)
    assert [one.name for one in tmp_path.iterdir()] == ["prior.npz"]
    first = path.read_bytes()
    assert again.save(path).read_bytes() == first


@pytest.fixture
def saved(tmp_path):
    run = (
        [[1, 2, 2, 5]],
        [[[{0, 1}, {1, 2}], [{0, 2}, {0, 1}], [{1, 2}, {0, 2}], [{0, 1}, {0, 1}]]],
        2,
        3,
        2,
    )
    calibration = Calibration(np.zeros((2, 3, 3), dtype=np.float32))
    return TokenPrior(counts=count(*run), calibration=calibration).save(tmp_path / "prior.npz")


def rewrite(path, header=None, **arrays):
    """The same file with other fields; None takes one out."""
    with np.load(path) as archive:
        body = {name: archive[name] for name in archive.files}
    head = json.loads(str(body["header"])) | (header or {})
    head = {name: value for name, value in head.items() if value is not None}
    body = body | {"header": np.array(json.dumps(head))} | arrays
    np.savez_compressed(path, **{name: value for name, value in body.items() if value is not None})


HEADERS = {
    "format": ("evenmoe.loads", "format"),
    "version": (2, "version"),
    "num_layers": (3, "count_N"),
    "num_experts": (2, "cell_N"),
    "top_k": (1, "top_k"),
    "num_tokens": (5, "num_tokens"),
    "shrinkage": ("much", "shrinkage"),
    "model": (7, "model"),
    "domains": ("one", "domains"),
}
"""A wrong value of each field, and what the message names: where sizes disagree, the array that does not fit."""


@pytest.mark.parametrize("field", sorted(HEADERS))
def test_a_wrong_header_field_is_named(saved, field):
    value, named = HEADERS[field]
    rewrite(saved, {field: value})
    with pytest.raises(FileFormatError, match=named) as raised:
        read_token_prior(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize("field", sorted(HEADERS))
def test_a_missing_header_field_is_named(saved, field):
    rewrite(saved, {field: None})
    with pytest.raises(FileFormatError, match=field):
        read_token_prior(saved)


ARRAYS = {
    "ids_R": np.array([1, 1, 5]),
    "seen_R": np.array([1, 0, 1]),
    "cell_N": np.array([0, 500]),
    "count_N": np.array([1.5, 2.0]),
    "change_LEE": np.full((2, 3, 3), np.nan, dtype=np.float32),
}


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_a_wrong_array_is_named(saved, name):
    rewrite(saved, **{name: ARRAYS[name]})
    with pytest.raises(FileFormatError, match=name) as raised:
        read_token_prior(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize("name", ["header", "ids_R", "seen_R", "cell_N", "count_N"])
def test_a_missing_array_is_named(saved, name):
    with np.load(saved) as archive:
        body = {key: archive[key] for key in archive.files if key != name}
    np.savez_compressed(saved, **body)
    with pytest.raises(FileFormatError, match=name):
        read_token_prior(saved)


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_a_truncated_file_is_refused(saved, cut):
    saved.write_bytes(saved.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match="not a token prior"):
        read_token_prior(saved)


def test_objects_are_never_unpickled(saved):
    rewrite(saved, ids_R=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileFormatError):
        read_token_prior(saved)


def test_other_files_and_names(saved, tmp_path):
    with pytest.raises(ConfigError, match=r"\.npz"):
        read_token_prior(tmp_path / "prior.json")
    with pytest.raises(FileNotFoundError):
        read_token_prior(tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "no prior")
    with pytest.raises(FileFormatError):
        read_token_prior(tmp_path / "other.npz")
