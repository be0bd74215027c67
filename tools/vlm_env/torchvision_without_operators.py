"""Lets `import torchvision` succeed where its compiled operators do not load: PyPI's build beside a CPU build of torch.

torchvision is meant to import without its operators, and to say so when one is called. But two of its modules, which
describe the operators to torch.compile and to autograd, fail where there is nothing to describe. Here they are empty
then. What is written in Python works, image transforms for one; `torchvision.ops.nms` and its like raise torchvision's
own error. A torchvision whose operators load is left as it is. A `.pth` file imports this when Python starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

DESCRIPTIONS = ("torchvision._meta_registrations", "torchvision._autograd_registrations")


class EmptyWithoutOperators(MetaPathFinder, Loader):
    """Finds the two modules before the usual finders do, where they have no operators to describe."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an empty module's specification, or None: the usual finders go on."""
        if name not in DESCRIPTIONS or sys.modules["torchvision.extension"]._has_ops():
            return None
        return ModuleSpec(name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put nothing into it."""


sys.meta_path.insert(0, EmptyWithoutOperators())
