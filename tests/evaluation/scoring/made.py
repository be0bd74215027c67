"""Finished evaluations made up on disk: a policy, and the score of each item of each task."""

from pathlib import Path

from evenmoe.evaluation.scoring import EvalConfig, EvalResult, ItemScore, LoadFigures, TaskScore, write_items
from evenmoe.evaluation.scoring.paired import mean_of_items
from evenmoe.evaluation.specs import parse_policy

LOADS = LoadFigures(
    drop_rate=0.25,
    relative_work=0.75,
    straggler_factor=1.2,
    peak_to_mean_before=2.0,
    peak_to_mean_after=1.5,
    gate_mass_kept=0.9,
    tokens_without_expert=0.01,
)


def make_evaluation(
    folder: Path,
    scores: dict[str, list[float]],
    policy: str = "baseline",
    gamma: float | None = None,
    *,
    loads: LoadFigures | None = LOADS,
    totals: dict[str, float] | None = None,
    result: dict | None = None,
    **config: object,
) -> Path:
    """Write an evaluation and return its folder. totals: scores of tasks that are no mean over items."""
    settings = {"model": "bundled:text", "suite": "bundled", "tasks": tuple(scores)} | config
    resolved = EvalConfig(policy=parse_policy(policy), gamma=gamma, **settings)
    tasks = []
    for task, values in scores.items():
        write_items(
            folder / f"{task}.jsonl", [ItemScore(item=f"{task}-{i}", score=s) for i, s in enumerate(values)]
        )
        estimate = mean_of_items(values)
        tasks.append(
            TaskScore(
                task=task,
                metric="acc",
                num_fewshot=0,
                num_items=len(values),
                score=(totals or {}).get(task, estimate.value),
                stderr=None if totals and task in totals else estimate.stderr,
                items_file=f"{task}.jsonl",
            )
        )
    made = EvalResult(
        harness="lm-eval",
        config=resolved.model_dump(mode="json"),
        label=resolved.label,
        batches={"size": 16, "sha256": "abc"},
        versions={"evenmoe": "1", "torch": "2"},
        tasks=tuple(tasks),
        mean=sum(task.score for task in tasks) / len(tasks),
        loads=loads,
        loads_file=None,
        seconds=1.0,
    )
    made.model_copy(update=result or {}).write(folder)
    return folder
