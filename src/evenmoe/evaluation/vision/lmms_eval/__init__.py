"""lmms-eval: its model `evenmoe` for any task, the bundled scenes as tasks, and whole evaluations in it."""

from pathlib import Path

TASKS_PATH = Path(__file__).parent / "tasks"
"""The folder for lmms-eval's `--include_path` that has the tasks `evenmoe_scenes` and `evenmoe_scenes_choice`."""

__all__ = ["TASKS_PATH"]
