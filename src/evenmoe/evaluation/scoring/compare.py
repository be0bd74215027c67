"""Evaluations of one model under several policies, side by side: scores and paired differences to no limit.

Only what differs in nothing but the policy is compared; anything else is refused, naming what differs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scoring.comparison import ComparedTask, Comparison, PolicyRow, TaskComparison
from evenmoe.evaluation.scoring.config import EvalConfig
from evenmoe.evaluation.scoring.evaluations import Evaluation
from evenmoe.evaluation.scoring.paired import (
    Estimate,
    PairedDifference,
    mean_of_items,
    mean_of_tasks,
    paired_difference,
)
from evenmoe.evaluation.scoring.results import EvalResult, TaskScore
from evenmoe.routing import option_names

POLICY_SETTINGS = ("policy", "gamma", "scope", "level", "isolation", "phases", "min_tokens", "placement")
"""What may differ between the evaluations of one comparison; it does nothing, or says nothing, in the baseline."""

DERIVED = ("suite", "tasks")
"""Where the tasks came from: what was run in the end is compared instead."""

ORDER = ("baseline", "expert_drop", "token_drop", "expanded_drop", "fill")
"""The order of the paper's quality table; other policies follow by name."""


MOST_DIFFERENCES = 6
"""How many settings an error spells out: two evaluations of different tasks differ in dozens."""


def compare_evaluations(evaluations: Sequence[Evaluation], *, allow: Collection[str] = ()) -> Comparison:
    """Compare policies on the same items, the baseline first and then in the order of the paper's quality table.

    allow: names of settings that may differ although they are no setting of the policy, "versions" or "versions.torch".
        Items, tasks and metrics cannot be allowed to: there would be no pairs.
    Raises ConfigError where there is not exactly one baseline, where a policy is there twice, and where evaluations
    differ in anything but the policy; the message names the two folders and what differs. Also for an unknown `allow`.
    """
    base = _baseline(evaluations)
    others = [evaluation for evaluation in evaluations if evaluation is not base]
    _check_allowed(allow, base)
    allowed: dict[str, None] = {}
    for other in others:
        differing = differences(base, other)
        refused = [name for name in differing if not any(_within(name, part) for part in allow)]
        if refused:
            raise ConfigError("evaluation", str(other.folder), _explained(base, other, refused))
        allowed |= dict.fromkeys(differing)
    _check_distinct(evaluations)
    ordered = [base, *sorted(others, key=_place)]
    return Comparison(
        model=str(base.result.config["model"]),
        harness=base.result.harness,
        config={key: value for key, value in base.result.config.items() if key not in POLICY_SETTINGS},
        batches=base.result.batches,
        versions=base.result.versions,
        allowed=tuple(allowed),
        tasks=tuple(_compared(base, task) for task in base.result.tasks),
        rows=tuple(_row(evaluation, base) for evaluation in ordered),
    )


def mean_difference(first: Evaluation, second: Evaluation) -> PairedDifference:
    """`first` minus `second`, unweighted over tasks, in pairs of items: two policies of which neither is the baseline.

    Raises ConfigError where they differ in anything but the policy.
    """
    unlike = differences(second, first)
    if unlike:
        raise ConfigError("evaluation", str(first.folder), _explained(second, first, unlike))
    return _overall([_paired(first, second, task) for task in first.result.tasks])


def differences(base: Evaluation, other: Evaluation) -> dict[str, tuple[Any, Any]]:
    """What two evaluations differ in beside the policy: dotted name -> both values. Empty: they can be compared."""
    ours, theirs = (_settings(side.result) for side in (base, other))
    found = {
        name: (ours.get(name), theirs.get(name))
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    }
    return found | _task_differences(base, other)


def _settings(result: EvalResult) -> dict[str, Any]:
    """All that must be the same, by dotted name."""
    config = {key: value for key, value in result.config.items() if key not in (*POLICY_SETTINGS, *DERIVED)}
    whole = {"harness": result.harness, **config, "batches": result.batches, "versions": result.versions}
    return dict(_leaves("", whole))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    parts = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if parts is None:
        yield name, value
        return
    for key, part in parts:
        yield from _leaves(f"{name}.{key}" if name else str(key), part)


def _task_differences(base: Evaluation, other: Evaluation) -> dict[str, tuple[Any, Any]]:
    ours, theirs = ({task.task: task for task in side.result.tasks} for side in (base, other))
    if list(ours) != list(theirs):
        return {"tasks": (list(ours), list(theirs))}
    found: dict[str, tuple[Any, Any]] = {}
    for name in ours:
        for field in ("metric", "num_fewshot", "num_items"):
            pair = getattr(ours[name], field), getattr(theirs[name], field)
            if pair[0] != pair[1]:
                found[f"tasks.{name}.{field}"] = pair
        unlike = [
            (mine.item, its.item)
            for mine, its in zip(base.items[name], other.items[name], strict=False)
            if mine.item != its.item
        ]
        if unlike:
            found[f"tasks.{name}.items"] = unlike[0]
    return found


def _baseline(evaluations: Sequence[Evaluation]) -> Evaluation:
    found = [evaluation for evaluation in evaluations if evaluation.policy == "baseline"]
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(evaluation.folder) for evaluation in found or evaluations)
    if not found:
        raise ConfigError(
            "evaluations", names, "with one of the policy baseline among them, which is missing"
        )
    unlike = differences(found[0], found[1])
    explained = _explained(found[0], found[1], unlike) if unlike else "they are of the same settings"
    raise ConfigError("baseline", names, f"one baseline only; {explained}")


def _check_allowed(allow: Collection[str], base: Evaluation) -> None:
    known = _settings(base.result)
    for name in allow:
        if not any(_within(setting, name) for setting in known):
            tops = dict.fromkeys(setting.partition(".")[0] for setting in known)
            raise ConfigError(
                "allow", name, f"out of {', '.join(tops)}, or a part of one such as versions.torch"
            )


def _within(setting: str, name: str) -> bool:
    return setting == name or setting.startswith(f"{name}.")


def _explained(base: Evaluation, other: Evaluation, names: Collection[str]) -> str:
    values = differences(base, other)
    shown = list(names)[:MOST_DIFFERENCES]
    parts = [f"{name} ({_brief(values[name][0])} there, {_brief(values[name][1])} here)" for name in shown]
    if len(names) > len(shown):
        parts.append(f"and {len(names) - len(shown)} settings more")
    return f"only the policy may differ from {base.folder}, but so does " + "; ".join(parts)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_distinct(evaluations: Sequence[Evaluation]) -> None:
    seen: list[tuple[dict[str, Any], Path]] = []
    for evaluation in evaluations:
        settings = {key: evaluation.result.config.get(key) for key in POLICY_SETTINGS}
        for known, folder in seen:
            if known == settings:
                raise ConfigError(
                    "evaluation", str(evaluation.folder), f"one per policy; {folder} is of the same"
                )
        seen.append((settings, evaluation.folder))


def _place(evaluation: Evaluation) -> tuple[int, str, str, float]:
    policy = evaluation.policy
    known = ORDER.index(policy) if policy in ORDER else len(ORDER)
    options = evaluation.result.config["policy"].get("options") or {}
    words = " ".join(str(value) for value in options.values())
    return known, policy, words, -(evaluation.gamma or 0.0)


def _label(evaluation: Evaluation) -> str:
    """The policy's name, gamma, and those settings that are not the usual ones."""
    if evaluation.policy == "baseline":
        return evaluation.result.label
    extra = []
    for key in POLICY_SETTINGS[2:]:
        value = evaluation.result.config.get(key)
        if value != EvalConfig.model_fields[key].default and _acts(key, evaluation.policy):
            extra.append("own placement" if key == "placement" else f"{key} {value}")
    return ", ".join([evaluation.result.label, *extra])


def _acts(setting: str, policy: str) -> bool:
    """Whether a policy has a setting; those of `attach` act on all."""
    return setting in ("phases", "min_tokens", "placement") or setting in option_names(policy)[0]


def _compared(base: Evaluation, task: TaskScore) -> ComparedTask:
    scores = base.scores(task.task)
    return ComparedTask(
        task=task.task,
        metric=task.metric,
        num_fewshot=task.num_fewshot,
        num_items=task.num_items,
        share=0 <= task.score <= 1 and all(0 <= score <= 1 for score in scores),
    )


def _row(evaluation: Evaluation, base: Evaluation) -> PolicyRow:
    own = [_estimate(evaluation, task) for task in evaluation.result.tasks]
    is_base = evaluation is base
    paired = [] if is_base else [_paired(evaluation, base, task) for task in evaluation.result.tasks]
    return PolicyRow(
        label=_label(evaluation),
        policy=evaluation.policy,
        gamma=evaluation.gamma,
        folder=str(evaluation.folder),
        tasks=tuple(_cell(score, paired[i] if paired else None) for i, score in enumerate(own)),
        mean=None
        if base.result.mean is None
        else _cell(mean_of_tasks(own), _overall(paired) if paired else None),
        loads=evaluation.result.loads,
    )


def _estimate(evaluation: Evaluation, task: TaskScore) -> Estimate:
    """The task's score; its standard error is that of its items where the score is their mean, else what it says."""
    items = mean_of_items(evaluation.scores(task.task))
    if math.isclose(items.value, task.score, rel_tol=1e-9, abs_tol=1e-12):
        return items
    return Estimate(value=task.score, stderr=task.stderr)


def _paired(evaluation: Evaluation, base: Evaluation, task: TaskScore) -> PairedDifference:
    """The difference of the scores; without a standard error where they are no mean over items."""
    paired = paired_difference(evaluation.scores(task.task), base.scores(task.task))
    before = next(other.score for other in base.result.tasks if other.task == task.task)
    change = task.score - before
    of_means = math.isclose(paired.difference.value, change, rel_tol=1e-9, abs_tol=1e-12)
    return PairedDifference(
        difference=paired.difference if of_means else Estimate(value=change, stderr=None),
        num_better=paired.num_better,
        num_worse=paired.num_worse,
    )


def _overall(paired: Sequence[PairedDifference]) -> PairedDifference:
    return PairedDifference(
        difference=mean_of_tasks([task.difference for task in paired]),
        num_better=sum(task.num_better for task in paired),
        num_worse=sum(task.num_worse for task in paired),
    )


def _cell(score: Estimate, paired: PairedDifference | None) -> TaskComparison:
    return TaskComparison(
        score=score.value,
        stderr=score.stderr,
        difference=paired.difference.value if paired else None,
        difference_stderr=paired.difference.stderr if paired else None,
        num_better=paired.num_better if paired else None,
        num_worse=paired.num_worse if paired else None,
    )
