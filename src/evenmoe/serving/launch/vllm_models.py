"""What is in the installed vLLM, by its files: nothing of it is imported."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

_MODELS = Path("model_executor", "models")
_TIES = re.compile(
    r"\.tie_weights\(|lm_head\.weight = |lm_head = self\.(?:model\.)?embed_tokens|raise ValueError\(\"tie_word"
)


def vllm_folder() -> Path | None:
    """Return the folder of the installed vLLM, or None."""
    spec = find_spec("vllm")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def server_module() -> str:
    """Return the module that is run as the server. It needs no package metadata, as the `vllm` command does."""
    vllm = vllm_folder()
    if vllm is not None and (vllm / "entrypoints" / "launchers" / "api_server" / "entry.py").is_file():
        return "vllm.entrypoints.launchers.api_server.entry"
    return "vllm.entrypoints.openai.api_server"


def source_of(architecture: str, vllm: Path) -> str | None:
    """Return the source of the module that holds vLLM's class for an architecture, or None where there is none."""
    registry = vllm / _MODELS / "registry.py"
    if not registry.is_file():
        return None
    entry = re.search(rf'"{re.escape(architecture)}":\s*\(\s*"(\w+)"', registry.read_text(encoding="utf-8"))
    module = vllm / _MODELS / f"{entry[1]}.py" if entry else None
    return module.read_text(encoding="utf-8") if module is not None and module.is_file() else None


def ties_embeddings(source: str) -> bool:
    """Whether a model class of this source acts on `tie_word_embeddings`, be it by refusing it.

    One that does not leaves its output embedding unset where the checkpoint brings none, and answers with garbage.
    """
    return _TIES.search(source) is not None
