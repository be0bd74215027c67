"""Checkpoints as an engine can serve them: what is wrong with one is said before the engine starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError, FileFormatError, UnsupportedModelError
from evenmoe.serving.launch.options import Engine
from evenmoe.serving.launch.untying import cache_folder, untied, weight_names
from evenmoe.serving.launch.vllm_models import source_of, ties_embeddings, vllm_folder

BUNDLED = Path(__file__).parents[2] / "models" / "bundled"
BUNDLED_PREFIX = "bundled:"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.*", "*.tiktoken", "tekken.json")
_HEAD = re.compile(r"(?:^|\.)lm_head\.|^output\.weight$")
_NUM_EXPERTS = re.compile(r"^(?:moe_)?(?:num|n)_(?:local_|routed_)?experts$")


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model as the engine is given it.

    path: a folder, or a name on the Hugging Face Hub.
    name: what clients call it.
    note: what was done to it, in a sentence; "" for nothing.
    """

    path: str
    name: str
    note: str = ""


def prepare(model: str, engine: Engine, *, cache: Path | None = None) -> Served:
    """Find and check the model that a user named: a folder, a name on the Hub, or "bundled:text".

    A checkpoint with tied embeddings, which vLLM's class for it would not tie, is served from an untied copy in `cache`
    (default: `cache_folder()`). Raises ConfigError for what cannot be found or is no whole checkpoint,
    UnsupportedModelError for a model without experts and for one that vLLM has no class for.
    """
    folder = _local_folder(model)
    config = _config_on_hub(model) if folder is None else _config_of(folder)
    if max(_num_experts(config), default=0) < 2:
        raise UnsupportedModelError(
            f"{model}: the model is dense: its configuration has no number of experts, and evenmoe acts on those alone"
        )
    if folder is not None:
        _check_files(folder)
    if engine == "vllm" and _needs_untying(model, config):
        if folder is None:
            folder = _download(model)
        if not _has_head(folder):
            path = untied(folder, cache or cache_folder())
            note = f"vLLM does not tie the embeddings of {config['architectures'][0]}: serving an untied copy, {path}"
            return Served(path=str(path), name=model, note=note)
    return Served(path=model if folder is None else str(folder), name=model)


def _local_folder(model: str) -> Path | None:
    """The folder that is meant, or None for a name on the Hub."""
    if model.startswith(BUNDLED_PREFIX):
        name = model.removeprefix(BUNDLED_PREFIX)
        known = sorted(config.parent.name for config in BUNDLED.glob("*/config.json"))
        if name not in known:
            raise ConfigError("model", model, "one of " + ", ".join(BUNDLED_PREFIX + name for name in known))
        return BUNDLED / name
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        problem = "it is a file" if path.is_file() else "no such folder"
        raise ConfigError(
            "model",
            model,
            f"a checkpoint's folder, a name on the Hugging Face Hub (owner/name) or bundled:text: {problem}",
        )
    return None


def _config_of(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError("model", str(folder), "a checkpoint's folder, with config.json")
    return _parsed(file)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{file} is not a JSON file: {error}") from error
    if not isinstance(config, dict):
        raise FileFormatError(f"{file} holds no object")
    return config


def _config_on_hub(name: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return _parsed(Path(hf_hub_download(name, "config.json")))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            "model", name, f"a folder, or a name on the Hugging Face Hub that can be reached ({reason})"
        ) from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx"]))
    except OSError as error:
        raise ConfigError("model", name, f"one that can be downloaded ({error})") from error


def _num_experts(config: Mapping[str, Any]) -> Iterator[int]:
    """Every number of experts that a configuration states, also in its parts."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _num_experts(value)
        elif _NUM_EXPERTS.match(key):
            yield from (n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int))


def _check_files(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        found = f"only {', '.join(pickled)}, which can run code when loaded" if pickled else "none"
        raise ConfigError("model", str(folder), f"a folder with *.safetensors weights; it has {found}")
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        raise ConfigError("model", str(folder), "a folder with a tokenizer, such as tokenizer.json")


def _needs_untying(model: str, config: Mapping[str, Any]) -> bool:
    """Whether embeddings are tied and vLLM's class for the architecture does not know of that."""
    vllm, architectures = vllm_folder(), config.get("architectures") or []
    if vllm is None or not architectures:
        return False
    source = source_of(architectures[0], vllm)
    if source is None:
        raise UnsupportedModelError(
            f"{model}: vLLM has no class for {architectures[0]}; try --engine transformers"
        )
    if "text_config" in config:
        return False  # a wrapper, whose text model is another class's affair
    # Many configurations leave the key out; whether the weights hold an output embedding settles it then.
    return bool(config.get("tie_word_embeddings", True)) and not ties_embeddings(source)


def _has_head(folder: Path) -> bool:
    """Whether the weights hold an output embedding, quantized or not."""
    names = (name for file in folder.glob("*.safetensors") for name in weight_names(file))
    return any(_HEAD.search(name) for name in names)
