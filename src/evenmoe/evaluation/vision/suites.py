"""What the suite "multimodal" is for a model, and the names of the bundled set's tasks. Light to import."""

from __future__ import annotations

from collections.abc import Sequence

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scenes.kinds import FAMILIES, Family

SUITE = "multimodal"
SCENES = "scenes"
"""Names all tasks of the bundled set at once."""
HARNESS_TASKS = ("mme", "mmbench_en_dev_static", "seedbench")
"""What vision-language models are measured on, as lmms-eval names them; "static" matches answers by rules, no judge."""
VLMEVALKIT_PREFIX = "vlmevalkit:"
BUNDLED_VLM = "bundled:vlm"


def multimodal_tasks(model: str) -> tuple[str, ...]:
    """The tasks of the suite: the bundled set for the bundled model, MME, MMBench and SEED-Bench for any other."""
    return (SCENES,) if model == BUNDLED_VLM else HARNESS_TASKS


def is_vlmevalkit(task: str) -> bool:
    """Whether a task is one of VLMEvalKit's."""
    return task.startswith(VLMEVALKIT_PREFIX)


def scene_tasks() -> dict[str, Family]:
    """The tasks of the bundled set, one per question family, such as "scenes_attribute_recognition"."""
    return {f"{SCENES}_{_words(family)}": family for family in FAMILIES}


def resolve_tasks(tasks: Sequence[str]) -> tuple[str, ...] | None:
    """The tasks of the bundled set that are meant, each once, in its order; None if all tasks are a harness's.

    Raises ConfigError for no task, for both sorts at once, and for a family that the set has not.
    """
    known = tuple(scene_tasks())
    ours = [task for task in tasks if task == SCENES or task.startswith(f"{SCENES}_")]
    if not tasks:
        raise ConfigError("tasks", [], f"{SCENES}, one of {', '.join(known)}, or tasks of lmms-eval")
    if not ours:
        return None
    if len(ours) < len(tasks):
        other = next(task for task in tasks if task not in ours)
        raise ConfigError("tasks", other, "tasks of the bundled set alone, or of lmms-eval alone")
    for task in ours:
        if task not in (SCENES, *known):
            raise ConfigError("tasks", task, f"{SCENES} or one of {', '.join(known)}")
    return known if SCENES in ours else tuple(task for task in known if task in ours)


def _words(family: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in family).split())
