"""docs/eval_findings.md: the paper's findings on the bundled text model, each as agrees, disagrees or undecided.

Each is a contrast: a weighted sum of policies' accuracies. In evaluations it is taken item by item, and its error is
that of paired items. In a sweep, rows are paired with no limit alone; there the root of the sum of the weighted
squares stands for it, which is too large where two policies fail on the same windows.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from evenmoe.evaluation.results import Row, read_results
from evenmoe.evaluation.scoring.compare import compare_evaluations
from evenmoe.evaluation.scoring.evaluations import Evaluation, find_evaluations
from evenmoe.evaluation.scoring.paired import mean_of_items, mean_of_tasks

ERRORS = 2
"""Standard errors that a contrast must be from 0 to count."""

Contrast = Mapping[str, float]


class Measured(Protocol):
    """Policies by name ("baseline", "random γ 1", "device γ 1", "fill γ 1.5", "expert_drop 0.75")."""

    stragglers: Mapping[str, float]

    def contrast(self, weights: Contrast) -> tuple[float, float]:
        """Points of accuracy and their standard error."""


class Evaluations:
    def __init__(self, folder: Path) -> None:
        found = find_evaluations([folder])
        compare_evaluations(found)  # refuses what must not be compared
        self.by_name: dict[str, Evaluation] = {
            name_of(
                each.result.config["policy"]["name"], each.result.config["policy"]["options"], each.gamma
            ): each
            for each in found
        }
        self.stragglers = {
            name: each.result.loads.straggler_factor
            for name, each in self.by_name.items()
            if each.result.loads
        }

    def contrast(self, weights: Contrast) -> tuple[float, float]:
        tasks = []
        for task in self.by_name["baseline"].result.tasks:
            columns = [[w * s for s in self.by_name[name].scores(task.task)] for name, w in weights.items()]
            tasks.append(mean_of_items([sum(item) for item in zip(*columns, strict=True)]))
        mean = mean_of_tasks(tasks)
        return 100 * mean.value, 100 * (mean.stderr or 0.0)


class Sweep:
    def __init__(self, folder: Path) -> None:
        rows = read_results(folder / "results.json").rows
        self.by_name: dict[str, Row] = {name_of(row.policy, row.settings, row.gamma): row for row in rows}
        self.stragglers = {name: row.straggler_factor for name, row in self.by_name.items()}

    def contrast(self, weights: Contrast) -> tuple[float, float]:
        rows = {name: self.by_name[name] for name in weights}
        value = sum(weight * rows[name].accuracy_change for name, weight in weights.items())
        errors = (weight * (rows[name].accuracy_change_stderr or 0.0) for name, weight in weights.items())
        return 100 * value, 100 * math.hypot(*errors)


def name_of(policy: str, options: Mapping[str, object], gamma: float | None) -> str:
    base = str(options.get("keep", "score")) if policy == "token_drop" else policy
    base = "device" if options.get("level") == "device" else base
    return f"{base} γ {gamma:g}" if gamma is not None else f"{base} {options.get('fraction', '')}".strip()


def verdict(value: float, stderr: float, wanted: str) -> str:
    """wanted: ">" (clearly more) or ">=" (not clearly less)."""
    if value > ERRORS * stderr:
        return "agrees"
    if value < -ERRORS * stderr:
        return "disagrees"
    return "agrees (equal within the error)" if wanted == ">=" else "undecided"


def report(measured: Measured) -> None:
    print("| finding | comparison | straggler | points | |\n|---|---|---|---:|---|")
    for gamma in ("γ 1", "γ 1.5", "γ 2"):
        for first, second in (("score", "random"), ("random", "first")):
            pair(measured, "what an expert keeps", f"{first} {gamma}", f"{second} {gamma}", ">")
    for gamma in ("γ 1", "γ 1.5", "γ 2"):
        for policy in ("expanded_drop", "fill"):
            pair(measured, "spare room", f"{policy} {gamma}", f"score {gamma}", ">=")
    for name in measured.stragglers:
        if name.startswith("expert_drop"):
            expert_drop(measured, name)
    pair(measured, "device level at equal speed", "device γ 1", "score γ 1.5", ">")


def pair(measured: Measured, finding: str, first: str, second: str, wanted: str) -> None:
    if {first, second} <= measured.stragglers.keys():
        line(measured, finding, f"{first} {wanted} {second}", {first: 1.0, second: -1.0}, wanted)


def expert_drop(measured: Measured, name: str) -> None:
    """Expert Drop against each policy interpolated, over gamma and no limit, to the same straggler factor."""
    factor = measured.stragglers[name]
    for policy in ("score", "expanded_drop", "fill"):
        line_of = [each for each in measured.stragglers if each.startswith(f"{policy} γ")]
        ends = bracket(measured.stragglers, [*line_of, "baseline"], factor)
        if ends is not None and line_of:
            weights = weights_at(measured.stragglers, ends, factor)
            said = " + ".join(f"{weight:.2f} {each}" for each, weight in weights.items())
            line(
                measured, "Expert Drop worst at equal speed", f"{said} > {name}", weights | {name: -1.0}, ">"
            )


def bracket(stragglers: Mapping[str, float], names: Sequence[str], factor: float) -> tuple[str, str] | None:
    """The two whose straggler factors are next below and above; None where the factor is outside."""
    below = [name for name in names if stragglers[name] <= factor]
    above = [name for name in names if stragglers[name] > factor]
    if not below or not above:
        return None
    return max(below, key=lambda name: stragglers[name]), min(above, key=lambda name: stragglers[name])


def weights_at(stragglers: Mapping[str, float], ends: tuple[str, str], factor: float) -> dict[str, float]:
    low, high = (stragglers[name] for name in ends)
    share = (factor - low) / (high - low)
    return {ends[0]: 1 - share, ends[1]: share}


def line(measured: Measured, finding: str, what: str, weights: Contrast, wanted: str) -> None:
    value, stderr = measured.contrast(weights)
    factors = " / ".join(f"{measured.stragglers[name]:.2f}" for name in weights)
    print(
        f"| {finding} | {what} | {factors} | {value:+.2f} ± {stderr:.2f} | {verdict(value, stderr, wanted)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=Path)
    parser.add_argument("--sweep", type=Path, action="append", default=[])
    given = parser.parse_args()
    if given.evaluations:
        print("Bundled suite:\n")
        report(Evaluations(given.evaluations))
    for folder in given.sweep:
        print(f"\nNext-token accuracy, {folder.name}:\n")
        report(Sweep(folder))


if __name__ == "__main__":
    main()
