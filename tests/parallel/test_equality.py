"""A model shared out over ranks gives what one process with the same virtual devices gives."""

import pytest

from evenmoe.models.tiny import is_installed
from evenmoe.models.tiny.table import TINY_CONFIGS
from evenmoe.parallel import Group, launch
from tests.parallel.equality_workers import EqualityCase, compare, compare_all

TOLERANCE = 1e-5
MODELS = ["olmoe", "qwen2_moe", "mixtral", "deepseek_v2", "deepseek_v3"]
REFUSED = {"jetmoe", "llama4", "llama4_text", "longcat_flash", "ernie4_5_vl_moe"}
POLICIES = [
    ("baseline", {}),
    *(("token_drop", {"gamma": 1.0, "keep": keep}) for keep in ("score", "first", "last", "random")),
    ("token_drop", {"gamma": 1.0, "level": "device"}),
    ("token_drop", {"gamma": 0.75, "isolation": "request"}),
    ("expanded_drop", {"gamma": 1.0}),
    ("fill", {"gamma": 1.0}),
    ("fill", {"gamma": 0.75, "isolation": "request", "level": "device"}),
    ("expert_drop", {"fraction": 0.2, "scope": "local"}),
    ("threshold_drop", {"threshold": 0.4}),
    ("token_drop", {"gamma": 1.0, "scope": "global"}),
    ("token_drop", {"gamma": 1.0, "scope": "global", "keep": "random"}),
    ("token_drop", {"gamma": 1.0, "scope": "global", "level": "device"}),
    ("token_drop", {"gamma": 0.75, "scope": "global", "isolation": "request"}),
    ("expanded_drop", {"gamma": 1.0, "scope": "global"}),
    ("fill", {"gamma": 1.0, "scope": "global", "isolation": "strict"}),
    ("expert_drop", {"fraction": 0.2}),
]
FEWER = [POLICIES[number] for number in (0, 1, 4, 6, 7, 8, 11, 12, 16, 18)]
GLOBAL = {"gamma": 1.0, "scope": "global"}
COPIES = {2: [0, 1, [0, 1], 1, 0, [0, 1], 1, 0], 4: [0, [1, 3], [0, 1, 2, 3], 2, 3, [0, 2], 1, 3]}
UNEVEN = {2: [1, 0, 0, 1, 0, 0, 1, 0], 4: [3, 0, 2, 2, 1, 0, 2, 3]}
LAYERS = {2: [UNEVEN[2], UNEVEN[2][::-1]], 4: [UNEVEN[4], UNEVEN[4][::-1]]}


def special_cases(rows):
    """What must hold on any number of ranks above one: placements, padding, shares that do not divide, generation."""
    ranks = len(rows)
    for policy, options in (("token_drop", {"gamma": 1.0}), ("fill", GLOBAL)):
        for placement in (COPIES[ranks], LAYERS[ranks], [0] * 8):
            yield EqualityCase(policy=policy, options=options, placement=placement, rows=rows, pad=3)
    yield EqualityCase(options={**GLOBAL, "level": "device"}, placement=COPIES[ranks], rows=rows, pad=3)
    left = {"pad": 3, "side": "left"}
    for options in ({"gamma": 1.0}, GLOBAL):
        yield EqualityCase(options=options, rows=rows, empty_rank=1, **left)
        yield EqualityCase(options=options, rows=rows, overrides={"num_experts": 2 * ranks - 1})
        yield EqualityCase(options=options, rows=rows, new_tokens=6, **left)
    yield EqualityCase(options=GLOBAL, rows=rows, new_tokens=6, placement=COPIES[ranks], **left)
    yield EqualityCase(rows=rows, new_tokens=8, ends=True, **left)
    yield EqualityCase(rows=rows, dtype="bfloat16")
    yield EqualityCase(rows=rows, form="shared", placement=COPIES[ranks], pad=3)


def more_cases(rows):
    """What does not depend on the number of ranks."""
    even = (2,) * len(rows)
    left = {"pad": 3, "side": "left"}
    yield EqualityCase(rows=even, attach={})
    yield EqualityCase(options=GLOBAL, rows=rows, attach={})
    yield EqualityCase(options={"gamma": float("inf")}, rows=rows, pad=2)
    for model_type in ("deepseek_v3", "qwen2_moe", "mixtral"):
        yield EqualityCase(model_type=model_type, rows=rows, new_tokens=4, **left)
    yield EqualityCase(model_type="qwen2_moe", rows=rows, new_tokens=4, form="shared", **left)
    yield EqualityCase(options={"gamma": 0.5}, rows=even, attach={"phases": "prefill"}, new_tokens=3)
    yield EqualityCase(options={**GLOBAL, "gamma": 0.5}, rows=rows, attach={"phases": "decode"}, new_tokens=3)
    yield EqualityCase(model_type="mixtral", policy="fill", rows=rows, dtype="bfloat16")
    yield EqualityCase(rows=rows, dtype="bfloat16", form="shared")
    yield EqualityCase(options=GLOBAL, rows=rows, dtype="float16", form="shared")
    for implementation in ("eager", "batched_mm"):
        yield EqualityCase(model_type="mixtral", rows=rows, implementation=implementation)


def grid(rows, models, policies, **others):
    """Every model with every policy."""
    for model_type in models:
        for policy, options in policies:
            yield EqualityCase(
                model_type=model_type,
                policy=policy,
                options=options,
                rows=rows,
                pad=3,
                **others,
            )


CASES = {
    1: list(grid((3,), ["olmoe"], POLICIES[::3])),
    2: [
        *grid((3, 1), MODELS[:1], POLICIES),
        *grid((3, 1), MODELS[1:], FEWER),
        *grid((3, 1), MODELS[:1], POLICIES[1::3], side="left"),
        *grid((3, 1), MODELS[:1], POLICIES, form="shared"),
        *grid((3, 1), MODELS[1:], POLICIES[1::7], form="shared"),
        *special_cases((3, 1)),
        *more_cases((3, 1)),
    ],
    4: [
        *grid((2, 1, 3, 2), MODELS[:1], FEWER),
        *grid((2, 1, 3, 2), MODELS[1:], FEWER[1::6]),
        *grid((2, 1, 3, 2), MODELS[:2], POLICIES[1:2], form="shared"),
        *special_cases((2, 1, 3, 2)),
    ],
}


@pytest.mark.parametrize("num_ranks", CASES)
def test_ranks_give_what_one_process_gives(num_ranks):
    cases, wrong = CASES[num_ranks], []
    if num_ranks == 1:
        results = [compare(Group.alone(), lambda *_: None, cases)]
    else:
        results = launch(compare, num_ranks=num_ranks, args=(cases,))
    for case, *found in zip(cases, *results, strict=True):
        for rank, result in enumerate(found):
            if reason := problem(case, result):
                wrong.append(f"rank {rank}: {reason}\n  {case}")
    assert not wrong, f"{len(wrong)} problems\n" + "\n".join(wrong)


def problem(case, found):
    """What is wrong with one rank's result; "" if nothing is."""
    half, several = case.dtype != "float32", len(case.rows) > 1
    if not found["difference"] <= (0.02 if half else TOLERANCE):
        return f"differs by {found['difference']:.2g}"
    if found["loads"] and not half and not case.ends:  # rounding may tip a later choice
        return f"loads differ: {found['loads']}"
    if case.form == "data" and found["rows_sent"] != found["pairs"]:
        return f"{found['rows_sent']} rows were sent for {found['pairs']} pairs"
    drops = case.policy != "baseline" and case.options.get("gamma") != float("inf")
    if drops != bool(found["dropped"]):
        return f"dropped {found['dropped']}"
    if several and (case.policy in ("expanded_drop", "fill")) != bool(found["added"]):
        return f"added {found['added']}"
    return ""


@pytest.mark.slow
def test_every_architecture_is_shared_out_or_refused():
    names = [name for name in TINY_CONFIGS if is_installed(name)]
    results = launch(compare_all, num_ranks=2, args=(names, "data"))
    refused = {name for name in names if "refused" in results[0][name]}
    assert refused == REFUSED.intersection(names)
    wrong = {
        (name, rank): reason
        for rank, found in enumerate(results)
        for name in names
        if name not in refused and (reason := problem(EqualityCase(model_type=name), found[name]))
    }
    assert not wrong
