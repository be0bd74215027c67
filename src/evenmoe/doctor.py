"""Checks of the installation: each finding says what was found and what to do about it."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from packaging.requirements import Requirement

from evenmoe.version import __version__


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. "optional": absent, and only one feature needs it; "broken": evenmoe needs it."""

    name: str
    state: Literal["ok", "optional", "broken"]
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """As plain data."""
        return dataclasses.asdict(self)


def diagnose() -> list[Finding]:
    """Look at everything. A check that fails in an unforeseen way is a finding too, never an exception."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _requirements,
        _bundled,
        _hardware,
        _parallel,
        _optional,
        _serving,
    )
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:
            name = check.__name__.strip("_")
            remedy = "the message above is all that is known; reinstall evenmoe"
            findings.append(
                Finding(name=name, state="broken", found=f"{type(error).__name__}: {error}", remedy=remedy)
            )
    return findings


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        name="Python",
        state="ok" if good else "broken",
        found=platform.python_version(),
        remedy="" if good else "use Python 3.11 or newer",
    )
    yield Finding(name="evenmoe", state="ok", found=__version__)


def _requirements() -> Iterator[Finding]:
    for requirement in map(Requirement, requires("evenmoe") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(
                name=requirement.name, state="broken", found="absent", remedy=f"pip install '{requirement}'"
            )
            continue
        good = requirement.specifier.contains(found, prereleases=True)
        yield Finding(
            name=requirement.name,
            state="ok" if good else "broken",
            found=found,
            remedy="" if good else f"pip install '{requirement}'",
        )


def _bundled() -> Iterator[Finding]:
    from evenmoe.evaluation.texts import heldout_texts
    from evenmoe.models.bundled import load_bundled

    model = load_bundled("text")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    yield Finding(name="bundled text model", state="ok", found=f"{num_parameters / 1e6:.1f}M parameters")
    yield Finding(name="held-out text", state="ok", found=", ".join(heldout_texts()))


def _hardware() -> Iterator[Finding]:
    import torch

    yield Finding(
        name="CPU", state="ok", found=f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    )
    if torch.cuda.is_available():
        yield Finding(name="GPU", state="ok", found=torch.cuda.get_device_name(0))
    else:
        remedy = "optional: everything here runs on a CPU; a CUDA build of torch uses a GPU"
        yield Finding(name="GPU", state="optional", found="none that torch can use", remedy=remedy)


def _parallel() -> Iterator[Finding]:
    import torch.distributed as dist

    usable = [
        name
        for name, works in (
            ("gloo", dist.is_available() and dist.is_gloo_available()),
            ("nccl", dist.is_available() and dist.is_nccl_available()),
        )
        if works
    ]
    if usable:
        yield Finding(
            name="Expert parallelism", state="ok", found=f"torch.distributed with {', '.join(usable)}"
        )
    else:
        remedy = "for evenmoe.parallel and --ranks: a torch built with torch.distributed"
        yield Finding(name="Expert parallelism", state="optional", found="no backend", remedy=remedy)


def _optional() -> Iterator[Finding]:
    try:
        yield Finding(name="4-bit loading", state="ok", found=f"bitsandbytes {version('bitsandbytes')}")
    except PackageNotFoundError:
        remedy = "for --quantization nf4: pip install 'evenmoe[quantization]'"
        yield Finding(name="4-bit loading", state="optional", found="bitsandbytes is absent", remedy=remedy)
    if os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE"):
        remedy = "unset HF_HUB_OFFLINE to load models by their name"
        yield Finding(
            name="Hugging Face Hub", state="optional", found="switched off by HF_HUB_OFFLINE", remedy=remedy
        )


def _serving() -> Iterator[Finding]:
    from evenmoe.serving.launch.engines import REMEDIES, missing
    from evenmoe.serving.launch.traps import of_another_build, vllm_version

    found = vllm_version()
    if found is None:
        remedy = f"for evenmoe serve: {REMEDIES['vllm']}"
        yield Finding(name="vLLM", state="optional", found="absent", remedy=remedy)
    else:
        yield Finding(name="vLLM", state="ok", found=found)
    if lacking := missing("transformers"):
        remedy = f"for evenmoe serve --engine transformers: {REMEDIES['transformers']}"
        lacks = f"{', '.join(lacking)} absent"
        yield Finding(name="Serving by transformers", state="optional", found=lacks, remedy=remedy)
    else:
        yield Finding(name="Serving by transformers", state="ok", found="installed")
    if misfits := of_another_build():
        yield Finding(
            name="Companions of torch",
            state="optional",
            found=", ".join(f"{name} {version(name)}" for name in misfits)
            + f" beside torch {version('torch')}",
            remedy=f"evenmoe serve works around it; for vLLM by itself: pip uninstall {' '.join(misfits)}",
        )
