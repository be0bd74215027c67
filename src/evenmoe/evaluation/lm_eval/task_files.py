"""Where our own lm-eval tasks are."""

from __future__ import annotations

from pathlib import Path


def task_folder() -> Path:
    """The folder to give to lm-eval's `--include_path` or `TaskManager(include_path=)`."""
    return Path(__file__).parent / "tasks"
