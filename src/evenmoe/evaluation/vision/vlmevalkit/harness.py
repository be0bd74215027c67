"""VLMEvalKit, imported without what its import does to the rest of the process."""

from __future__ import annotations

import io
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec

import torch

from evenmoe.evaluation.scoring.extras import MissingExtraError


def load_vlmeval() -> None:
    """Import VLMEvalKit. Raises MissingExtraError, naming how to get an environment that has it.

    Its import takes certificate checking from every later download of the process, switches gradients off, seeds
    torch, adds a log handler and prints. None of this outlives the import here, and what it prints is dropped.
    """
    if find_spec("vlmeval") is None:
        raise MissingExtraError(
            "vlmeval is not installed: VLMEvalKit needs an environment of its own, see docs/vlmevalkit.md "
            "(tools/vlm_env/vlmevalkit.sh FOLDER)"
        )
    with _process_state_kept():
        for name in ("config", "dataset", "inference"):
            import_module(f"vlmeval.{name}")


@contextmanager
def _process_state_kept() -> Iterator[None]:
    checked, handlers, level = ssl._create_default_https_context, logging.root.handlers[:], logging.root.level
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # it reports the lack of a file of API keys as an error
    try:
        gradients = torch.set_grad_enabled(torch.is_grad_enabled())
        with torch.random.fork_rng(), gradients, redirect_stdout(io.StringIO()):
            yield
    finally:
        ssl._create_default_https_context = checked
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logging.disable(disabled)


@contextmanager
def variable_set(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment until the block is left: VLMEvalKit takes some settings in no other way."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
