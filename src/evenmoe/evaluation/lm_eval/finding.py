"""Finding tasks: which folders to index, where their data is, and one clear error where it cannot be had."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.tasks
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from evenmoe.errors import ConfigError, EvenMoEError
from evenmoe.evaluation.lm_eval.quiet import no_hints
from evenmoe.evaluation.lm_eval.suites import SUITES, SuiteTask
from evenmoe.evaluation.lm_eval.task_files import task_folder

HARNESS_TASKS = Path(lm_eval.tasks.__file__).parent
_FILE_READERS = ("json", "csv", "parquet", "text", "arrow")
"""Names of a dataset that stand for files."""


class DataError(EvenMoEError, OSError):
    """The data of a task cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is scored as one row of the table, and run by itself: a task, or a group that is aggregated.

    loaded: what lm-eval's `evaluate` takes.
    """

    choice: SuiteTask
    loaded: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.choice.name

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The single tasks by name."""
        found: Mapping[str, Task] = self.loaded["tasks"]
        return found

    @property
    def group(self) -> Group | None:
        """The group, where it is one."""
        return self.loaded["groups"].get(self.name)


def task_manager(choices: Sequence[SuiteTask], include_path: str | None) -> TaskManager:
    """An index of tasks that knows all the given ones: of few folders where that will do, as lm-eval has thousands.

    A name in the user's folder goes before ours, ours before lm-eval's.
    Raises ConfigError for a folder that is none, and for an unknown task, naming its likes.
    """
    own = [task_folder()]
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise ConfigError("include_path", include_path, "a folder of task files")
        own.append(Path(include_path).resolve())
    likely = [HARNESS_TASKS / (choice.folder or choice.name) for choice in choices]
    few = TaskManager(include_defaults=False, include_path=[*filter(Path.is_dir, likely), *own])
    names = [choice.name for choice in choices]
    if _is_closed(few, names):
        return few
    manager = TaskManager(include_path=own)
    for name in names:
        if name not in manager.task_index:
            likes = difflib.get_close_matches(name, manager.all_tasks, 5)
            hint = f" (like it: {', '.join(likes)})" if likes else ""
            raise ConfigError(
                "task",
                name,
                f"a task of lm-eval, of the suites {', '.join(SUITES)}, or in --include-path{hint}",
            )
    return manager


def _is_closed(manager: TaskManager, names: Iterable[str]) -> bool:
    """Whether the index has these tasks, and all that their groups are made of."""
    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            return False
        members = entry.cfg.get("task") if entry.cfg and "group" in entry.cfg else []
        if isinstance(members, list):
            inner = [m if isinstance(m, str) else m.get("task", m.get("group")) for m in members]
            if not _is_closed(manager, [member for member in inner if isinstance(member, str)]):
                return False
    return True


def load_units(
    choices: Sequence[SuiteTask], manager: TaskManager, num_fewshot: int | None, seed: int
) -> list[Unit]:
    """Load every task with its data, and set its shots; a tag, or a group without a score, is one unit per task.

    num_fewshot: the user's own number for all tasks. Raises DataError where data cannot be had, ConfigError for shots
    that a task does not take and for a task asked for twice.
    """
    units = []
    for choice in choices:
        loaded = _loaded(choice, manager)
        for task in loaded["tasks"].values():
            _set_shots(task, choice, num_fewshot, seed)
        units += _split(choice, loaded)
    names = [name for unit in units for name in unit.tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("tasks", name, "asked for once, and not inside a group as well")
    return units


def _loaded(choice: SuiteTask, manager: TaskManager) -> Mapping[str, Any]:
    try:
        with no_hints("lm_eval.api.task"):  # it advises on every data set that is made by a function
            loaded: dict[str, Any] = dict(manager.load([choice.name]))
    except EvenMoEError:
        raise
    except Exception as error:  # datasets, the hub, httpx and task code each raise their own
        raise _data_error(choice.name, manager, error) from error
    return {"groups": {}, "group_map": {}} | loaded


def _data_error(name: str, manager: TaskManager, error: Exception) -> DataError:
    source = dataset_of(name, manager)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_offline():
        remedy = "run once without HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or copy the cache (HF_HOME) from elsewhere"
    else:
        remedy = "check the network and the name, or copy the cache (HF_HOME) from a machine that has it"
    what = f"dataset {source}" if source else "its data"
    return DataError(f"task {name}: {what} cannot be had: {reason}. To do: {remedy}; or leave the task out")


def is_offline() -> bool:
    """Whether the user has told the Hugging Face libraries to stay off the network."""
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)


def _set_shots(task: Task, choice: SuiteTask, num_fewshot: int | None, seed: int) -> None:
    own = task.get_config("num_fewshot")
    if num_fewshot and own == 0:
        raise ConfigError("num_fewshot", num_fewshot, f"left out, or 0: {task.task_name} takes no shots")
    wanted = next((number for number in (num_fewshot, choice.num_fewshot, own) if number is not None), 0)
    task.set_config(key="num_fewshot", value=wanted)
    task.set_fewshot_seed(seed=seed)


def _split(choice: SuiteTask, loaded: Mapping[str, Any]) -> list[Unit]:
    group = loaded["groups"].get(choice.name)
    if group is not None and group.has_aggregation:
        return [Unit(choice=choice, loaded=loaded)]
    return [
        Unit(
            choice=SuiteTask(name=name, num_fewshot=choice.num_fewshot, metric=choice.metric),
            loaded={"tasks": {name: task}, "groups": {}, "group_map": {}},
        )
        for name, task in loaded["tasks"].items()
    ]


def dataset_of(name: str, manager: TaskManager) -> str:
    """The dataset of a task, or of the first task of a group; "" where it cannot be told, as for data that is made."""
    return str(_first_config(name, manager).get("dataset_path") or "")


def data_is_local(name: str, manager: TaskManager) -> bool | None:
    """Whether the data of a task is on this machine, without reading it; None where that cannot be told."""
    config = _first_config(name, manager)
    path = config.get("dataset_path")
    if path in _FILE_READERS or "custom_dataset" in config:
        files = (config.get("dataset_kwargs") or {}).get("data_files")
        named = [files] if isinstance(files, str) else list((files or {}).values())
        return all(os.path.exists(file) for file in named if isinstance(file, str))
    if not isinstance(path, str):
        return None
    hub = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}" / "snapshots"
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    return (hub.is_dir() and any(hub.iterdir())) or prepared.is_dir()


def _first_config(name: str, manager: TaskManager) -> Mapping[str, Any]:
    """The configuration of a task, or of the first task of a group or tag, without running code of it."""
    entry = manager.task_index.get(name)
    if entry is None:
        return {}
    if entry.kind is Kind.TAG:
        return _first_config(min(entry.tags), manager)
    config: Mapping[str, Any] = entry.cfg or {}
    if entry.yaml_path is not None and "group" not in config:
        config = load_yaml(entry.yaml_path, resolve_func=False, recursive=True)
    members = config.get("task")
    if isinstance(members, list) and members:
        first = members[0] if isinstance(members[0], str) else members[0].get("task", "")
        return _first_config(first, manager)
    return config
