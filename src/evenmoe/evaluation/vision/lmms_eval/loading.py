"""Tasks of lmms-eval by name, with their data; what cannot be had is said in one line, before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from lmms_eval.tasks import TaskManager, get_task_dict
from lmms_eval.utils import load_yaml_config
from tenacity import RetryError

from evenmoe.errors import ConfigError
from evenmoe.evaluation.vision.lmms_eval import TASKS_PATH
from evenmoe.evaluation.vision.sources import MissingDatasetError

NEEDS_JUDGE: Mapping[str, str] = {
    "mmbench_en_dev": "mmbench_en_dev_static",
    "mmbench_en": "mmbench_en_dev_static",
}
"""Tasks that ask a GPT whether an answer is right, and those of the same data that do not."""


def load_tasks(names: Sequence[str], include_path: str | None = None) -> list[Any]:
    """Load tasks and groups of tasks in the given order, each task once, with their data.

    include_path: a folder of task files beside lmms-eval's and ours. Raises ConfigError for a name that is not known,
    MissingDatasetError naming the dataset and what to do.
    """
    manager = _manager(names, include_path)
    known = manager.all_tasks
    for name in names:
        if name not in known:
            near = (
                ", ".join(get_close_matches(name, known, n=5))
                or "those of `python -m lmms_eval --tasks list`"
            )
            raise ConfigError("tasks", name, f"a task of lmms-eval, such as {near}")
        if name in NEEDS_JUDGE and "OPENAI_API_KEY" not in os.environ:
            raise ConfigError(
                "tasks",
                name,
                f"{NEEDS_JUDGE[name]}, which matches answers by rules; {name} needs OPENAI_API_KEY",
            )
    found: dict[str, Any] = {}
    for name in names:
        found |= {task.task_name: task for task in _flat(_loaded(name, manager))}
    return list(found.values())


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """Index our folder and the user's; lmms-eval's own, which takes seconds to read, only if a name is not in those."""
    folders = (str(TASKS_PATH), *(() if include_path is None else (include_path,)))
    local = _indexed(folders, include_defaults=False)
    return local if set(names) <= set(local.all_tasks) else _indexed(folders, include_defaults=True)


@cache
def _indexed(folders: tuple[str, ...], *, include_defaults: bool) -> TaskManager:
    return TaskManager(include_path=list(folders), include_defaults=include_defaults)


def _loaded(name: str, manager: TaskManager) -> Mapping[Any, Any]:
    try:
        loaded: Mapping[Any, Any] = get_task_dict([name], manager, "simple")
    except (RetryError, OSError) as error:
        cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise MissingDatasetError(
            f"{name}: its dataset {_dataset(name, manager)} cannot be had ({reason}). Fetch it once where the Hub is "
            "reachable, with HF_HUB_OFFLINE unset, or copy it into this machine's Hugging Face cache (HF_HOME)"
        ) from error
    return loaded


def _dataset(name: str, manager: TaskManager) -> str:
    path = manager.task_index[name]["yaml_path"]
    if path == -1:
        return "of one of its tasks"
    config = load_yaml_config(path, mode="simple")
    return str(config.get("dataset_path", "of one of its tasks"))


def _flat(tasks: Mapping[Any, Any]) -> Iterator[Any]:
    for task in tasks.values():
        if isinstance(task, Mapping):
            yield from _flat(task)
        else:
            yield task
