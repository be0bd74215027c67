"""What the ranks of the equality tests run: a model shared out over them beside the whole model in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

import evenmoe
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.parallel import gather_loads, shard
from evenmoe.routing import make_policy

PAD_ID, EOS_ID = 0, 2
ENDING_IDS = range(1, 40)  # so many that rows end at different steps


@dataclass(frozen=True, kw_only=True)
class EqualityCase:
    """One comparison.

    rows: the rows of each rank. pad: padding columns, at this `side` of the rows; `empty_rank`: the rank whose rows are
    all padding. placement: the ranks of each expert, or None. new_tokens: generate so many; 0 compares logits.
    ends: let rows end at different steps; a rank whose rows have all ended runs along (generate's synced_gpus).
    implementation: of the experts of the sharded model, "" leaves the default. overrides: of the configuration.
    """

    model_type: str = "olmoe"
    policy: str = "token_drop"
    options: dict[str, Any] = field(default_factory=lambda: {"gamma": 1.0})
    form: str = "data"
    rows: tuple[int, ...] = (2, 2)
    pad: int = 0
    side: str = "right"
    empty_rank: int | None = None
    placement: Any = None
    new_tokens: int = 0
    ends: bool = False
    dtype: str = "float32"
    implementation: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    attach: dict[str, Any] = field(default_factory=lambda: {"min_tokens": 1})


def compare(group, progress, cases):
    """Compare every case: a dict of what was found for each."""
    logging.set_verbosity_error()
    found = []
    for number, case in enumerate(cases):
        progress(case.model_type, number, len(cases))
        found.append(_compare(group, case))
    return found


def compare_all(group, progress, model_types, form):
    """Compare every model type that can be shared out: {model type: what was found, or the refusal}."""
    logging.set_verbosity_error()
    found = {}
    for model_type in model_types:
        case = EqualityCase(model_type=model_type, form=form, rows=(2, 1), pad=3)
        try:
            found[model_type] = _compare(group, case)
        except evenmoe.errors.UnsupportedModelError as error:
            found[model_type] = {"refused": str(error)}
    return found


def _compare(group, case: EqualityCase) -> dict[str, Any]:
    inputs, row_D = _batch(case)
    assert len(case.rows) == group.world_size
    policy = make_policy(case.policy, **case.options)
    whole = _whole_model(case.model_type, case.dtype, tuple(case.overrides.items()))
    tags = [f"tag {row % 3}" for row in range(len(row_D))]
    with evenmoe.attach(
        whole, policy, num_devices=group.world_size, placement=case.placement, **case.attach
    ) as attached:
        assigned = attached.assign(row_D) if case.form == "data" else nullcontext()
        with attached.tagged(tags), assigned:
            expected = _run(whole, inputs, case)
        expected_loads = attached.loads
    part = copy.deepcopy(whole)
    if case.implementation:
        part.set_experts_implementation(case.implementation)
    parallel = shard(part, group, placement=case.placement, form=case.form)
    own = slice(None)
    if case.form == "data":
        start = sum(case.rows[: group.rank])
        own = slice(start, start + case.rows[group.rank])
    with (
        evenmoe.attach(part, policy, parallel=parallel, **case.attach) as attached,
        attached.tagged(tags[own]),
        rows_sent(group) as sent,
    ):
        actual = _run(part, {name: value[own] for name, value in inputs.items()}, case, synced=True)
        own_loads, loads = attached.loads, gather_loads(attached)
    return {
        "difference": _difference(actual, expected[own], inputs["attention_mask"][own], case),
        "rows_sent": sent[0],
        "pairs": int(own_loads.total.after_LE.sum()),
        "dropped": int(loads.total.before_LE.sum() - loads.total.kept_L.sum()),
        "added": int(loads.total.after_LE.sum() - loads.total.kept_L.sum()),
        "loads": _loads_differ(loads, expected_loads),
        "elements": sum(p.numel() for p in part.parameters()) / sum(p.numel() for p in whole.parameters()),
    }


def _batch(case: EqualityCase) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Return the inputs of all ranks, and the rank of each row. Rows differ in length where there is padding."""
    inputs = tiny_inputs(case.model_type, sum(case.rows), 12, pad=case.pad)
    mask = inputs["attention_mask"]
    for row in range(mask.shape[0] if case.pad else 0):
        short = row % 4
        if short:
            mask[row, 12 - short :] = 0
    row_D = [rank for rank, rows in enumerate(case.rows) for _ in range(rows)]
    if case.empty_rank is not None:
        mask[torch.tensor(row_D) == case.empty_rank] = 0
    inputs["input_ids"] = torch.where(mask.bool(), inputs["input_ids"], PAD_ID)
    if case.side == "left":
        inputs = {name: value.flip(1) for name, value in inputs.items()}
    return inputs, row_D


@cache
def _whole_model(model_type: str, dtype: str, overrides: tuple[tuple[str, Any], ...]) -> Any:
    model = tiny_model(model_type, **dict(overrides))
    return model if dtype == "float32" else model.to(getattr(torch, dtype))


def _run(model, inputs, case: EqualityCase, synced: bool = False):
    torch.manual_seed(1)
    with torch.inference_mode():
        if case.new_tokens:
            options = {"synced_gpus": True} if synced and case.form == "data" else {}
            return model.generate(
                **inputs,
                max_new_tokens=case.new_tokens,
                do_sample=False,
                pad_token_id=PAD_ID,
                eos_token_id=list(ENDING_IDS) if case.ends else None,
                suppress_tokens=[PAD_ID] if case.ends else [PAD_ID, EOS_ID],
                **options,
            )
        return model(**inputs).logits


def _difference(actual, expected, mask, case: EqualityCase) -> float:
    """The largest difference at real tokens over the largest value; of generated tokens, the share that differs."""
    if case.new_tokens:
        actual = torch.nn.functional.pad(actual, (0, expected.shape[1] - actual.shape[1]), value=PAD_ID)
        return float((actual != expected).float().mean())
    actual, expected = actual.float(), expected.float()
    if actual.shape[1] == mask.shape[1]:
        actual, expected = actual[mask.bool()], expected[mask.bool()]
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    return float((actual - expected).abs().max()) / scale if actual.numel() else 0.0


def _loads_differ(actual, expected) -> list[str]:
    """The names of what differs between two ExpertLoads."""
    if set(actual.by_tag) != set(expected.by_tag):
        return ["tags"]
    pairs = {
        f"{tag} {name}": (array, getattr(counts, name))
        for (tag, counts) in expected
        for name, array in dict(actual)[tag].arrays().items()
    }
    for name in ("steps_L", "expert_before_L", "expert_after_L", "device_before_L", "device_after_L"):
        pairs[name] = getattr(actual.peaks, name), getattr(expected.peaks, name)
    return [name for name, (one, other) in pairs.items() if not np.allclose(one, other, rtol=1e-5)]


@contextmanager
def rows_sent(group):
    """Count the rows of hidden states that this rank sends to experts, its own rank included."""
    real: Callable[..., None] = group.all_to_all
    counts, calls = [0], [0]

    def counting(output, input, output_splits, input_splits):
        if input.dim() == 2:
            calls[0] += 1
            if calls[0] % 2:  # every other exchange of rows is the way back
                counts[0] += input.shape[0]
        real(output, input, output_splits, input_splits)

    group.all_to_all = counting
    try:
        yield counts
    finally:
        del group.all_to_all
