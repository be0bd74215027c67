"""Runs as each process of an engine starts, where companions of torch are installed that do not fit it.

vLLM's CPU wheel installs PyPI's torchvision, torchaudio and torchcodec beside a CPU build of torch. Their libraries
cannot load there, and with them transformers imports no model. Two modules of torchvision, which describe its operators
to torch.compile and to autograd, are empty here if, and only if, the operators do not load: what is written in Python
works then, and `torchvision.ops.nms` and its like raise torchvision's own error. The packages named in EVENMOE_HIDDEN
are as if they were not installed. Nothing is written to the environment's files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

DESCRIPTIONS = ("torchvision._meta_registrations", "torchvision._autograd_registrations")
HIDDEN = "EVENMOE_HIDDEN"
"""The environment variable with names of packages, separated by commas."""


class EmptyWithoutOperators(MetaPathFinder, Loader):
    """Finds the two modules before the usual finders do, where there are no operators to describe."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an empty module's specification, or None: the usual finders go on."""
        if name not in DESCRIPTIONS or _operators_loaded():
            return None
        return ModuleSpec(name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put nothing into it."""


def install() -> None:
    """Have this process find packages so, once."""
    if any(isinstance(finder, EmptyWithoutOperators) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, EmptyWithoutOperators())
    _hide([name for name in os.environ.get(HIDDEN, "").split(",") if name])


def _hide(packages: Collection[str]) -> None:
    find = PathFinder.find_spec

    # A method of the class, as before: pytest keeps it as an attribute of a class of its own.
    def find_others(
        _: type[PathFinder], name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if name.partition(".")[0] in packages else find(name, path, target)

    if packages:
        PathFinder.find_spec = classmethod(find_others)  # type: ignore[method-assign, assignment]


def _operators_loaded() -> bool:
    has_ops = getattr(sys.modules.get("torchvision.extension"), "_has_ops", None)
    return has_ops is None or bool(has_ops())


def _run_hidden_sitecustomize() -> None:
    """Python runs the first `sitecustomize` that it finds, which is this one; the environment's own comes after it."""
    here = Path(__file__).parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry) != here]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None and spec.origin != __file__:
        spec.loader.exec_module(module_from_spec(spec))


if __name__ == "sitecustomize":
    install()
    _run_hidden_sitecustomize()
