"""The catalogue is true: every architecture in it passes its check, and the check fails where it must."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from evenmoe.errors import ConfigError
from evenmoe.models import attach, attached, batch, layer
from evenmoe.models.architectures import ARCHITECTURES
from evenmoe.models.catalog import CATALOG, UNSUPPORTED, catalog_entry
from evenmoe.models.check import CRITERIA, CheckResult, check_all, check_architecture, run
from evenmoe.models.tiny import TINY_CONFIGS, is_installed, tiny_model

INSTALLED = tuple(int(part) for part in transformers.__version__.split(".")[:2])


@pytest.mark.parametrize("model_type", list(CATALOG))
def test_architecture_passes(model_type: str) -> None:
    result = check_architecture(model_type)
    if result.status == "absent":
        pytest.skip(result.message)
    assert result.status == "passed", result.message


@pytest.mark.parametrize("model_type", list(CATALOG))
def test_shared_experts_are_as_stated(model_type: str) -> None:
    if not is_installed(model_type):
        pytest.skip("not in this transformers version")
    names = {name.rpartition(".")[2] for name, _ in tiny_model(model_type).named_modules()}
    assert CATALOG[model_type].shared_experts == any("shared" in name for name in names)


@pytest.mark.parametrize("model_type", list(CATALOG))
def test_first_release_is_as_stated(model_type: str) -> None:
    since = tuple(int(part) for part in CATALOG[model_type].since.split("."))
    assert is_installed(model_type) == (since <= INSTALLED)


def test_catalogue_is_complete() -> None:
    assert set(CATALOG) == set(TINY_CONFIGS)
    assert {entry.folder for entry in CATALOG.values()} == set(ARCHITECTURES)
    assert not set(UNSUPPORTED) & {entry.folder for entry in CATALOG.values()}
    assert len({name for entry in CATALOG.values() for name in entry.checkpoints}) > 70


def test_only_phimoe_lacks_true_scores() -> None:
    assert [name for name, entry in CATALOG.items() if not entry.true_scores] == ["phimoe"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="olmoe"):
        catalog_entry("no_such_model")
    with pytest.raises(ConfigError, match="olmoe"):
        check_architecture("no_such_model")
    with pytest.raises(ConfigError, match="capacity"):
        check_architecture("olmoe", ["no_such_criterion"])


def test_progress_and_outcomes() -> None:
    seen: list[CheckResult] = []
    results = check_all(["olmoe", "phimoe"], progress=seen.append)
    assert seen == results
    assert [result.status for result in results] == ["passed", "passed"]
    outcomes = {criterion.name: criterion for criterion in results[1].criteria}
    assert list(outcomes) == list(CRITERIA)
    assert outcomes["substitutes"].detail == "refused, as stated"
    assert outcomes["images"].outcome == "not applicable"


def test_unknown_name_is_refused_before_anything_is_checked() -> None:
    seen: list[CheckResult] = []
    with pytest.raises(ConfigError, match="no_such_model"):
        check_all(["olmoe", "no_such_model"], progress=seen.append)
    assert seen == []


def test_absent_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "is_installed", lambda _name: False)
    result = check_architecture("olmoe")
    assert (result.status, result.criteria, result.max_abs_diff) == ("absent", (), None)
    assert transformers.__version__ in result.message


def test_tiny_model_that_cannot_be_built_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise ValueError("no such size")

    monkeypatch.setattr(run.Case, "of", refuse)
    result = check_architecture("olmoe")
    assert result.status == "failed"
    assert "no such size" in result.message


# What the check must catch: each mutation breaks the machinery in one way.


def _reinsert_dropped(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(kept_TE: torch.Tensor, chosen_TE: torch.Tensor, *rest: Any) -> Any:
        return original(kept_TE | chosen_TE, chosen_TE, *rest)

    return mutant


def _forget_normalising(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(*args: Any) -> Any:
        return original(*args[:-1], None)

    return mutant


def _overweigh_substitutes(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(kept_TE: torch.Tensor, chosen_TE: torch.Tensor, *rest: Any) -> Any:
        pairs = original(kept_TE, chosen_TE, *rest)
        pairs.weight_P[~chosen_TE[pairs.token_P, pairs.expert_P]] *= 1.5
        return pairs

    return mutant


def _failed(model_type: str) -> set[str]:
    return {c.name for c in check_architecture(model_type).criteria if c.outcome == "failed"}


def test_catches_dropped_pairs_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "kept_pairs", _reinsert_dropped(layer.kept_pairs))
    assert {"computed", "reference"} <= _failed("olmoe")


def test_catches_missing_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "kept_pairs", _forget_normalising(layer.kept_pairs))
    assert "reference" in _failed("mixtral")


def test_catches_wrong_weights_of_substitutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "kept_pairs", _overweigh_substitutes(layer.kept_pairs))
    assert _failed("olmoe") == {"substitute weights"}


def test_catches_a_wrong_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(ARCHITECTURES["olmoe"], score="sigmoid")
    monkeypatch.setitem(ARCHITECTURES, "olmoe", wrong)
    assert _failed("olmoe") == {"stated scores"}


def test_catches_counted_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "real_positions", lambda *_args: None)
    assert "padding" in _failed("olmoe")


def test_catches_hooks_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(self: attached.Attached) -> None:
        attached._ROUTERS.clear()

    monkeypatch.setattr(attached.Attached, "detach", leave)
    assert "detach" in _failed("olmoe")


def test_catches_a_layer_that_is_not_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = attach.find_sites
    monkeypatch.setattr(attach, "find_sites", lambda model: found(model)[:1])
    assert "infinite gamma" in _failed("olmoe")
