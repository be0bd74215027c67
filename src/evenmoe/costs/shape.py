"""LayerShape: the sizes of one MoE layer that its time depends on, and where they are read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, FileFormatError, check_choice

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: Final[tuple[str, ...]] = get_args(Dtype)
_BYTES: Final[dict[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
_MATRICES = 3
"""Gate, up and down projection of a gated expert."""
_MOST_DEVICES = 8
"""The paper's largest group; a checkpoint that says nothing is laid out on as many devices as divide its experts."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One MoE layer of gated experts (gate, up and down projection, no bias).

    hidden, intermediate: H and I of an expert; shared_intermediate: the inner size of all shared experts together, 0
    where there are none; num_layers: MoE layers of the model; num_devices: the paper's layout, the default of D.
    Raises ConfigError for sizes that no layer has.
    """

    name: str
    hidden: int
    intermediate: int
    num_experts: int
    top_k: int
    shared_intermediate: int = 0
    num_layers: int = 1
    num_devices: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "name":
                continue
            least = 0 if field.name == "shared_intermediate" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(field.name, value, f"an integer of at least {least}")
        for field_name in ("top_k", "num_devices"):
            if getattr(self, field_name) > self.num_experts:
                raise ConfigError(
                    field_name, getattr(self, field_name), f"at most the {self.num_experts} experts"
                )

    @property
    def flops_per_pair(self) -> int:
        """Floating-point operations of one (token, expert) pair: 2 per weight, 3 matrices of H x I."""
        return 2 * _MATRICES * self.hidden * self.intermediate

    def expert_bytes(self, dtype: str) -> int:
        """Bytes of one routed expert's weights. Raises ConfigError for an unknown dtype."""
        return _MATRICES * self.hidden * self.intermediate * element_bytes(dtype)

    def pair_bytes(self, dtype: str) -> int:
        """Bytes of one pair's hidden vector, sent once each way. Raises ConfigError for an unknown dtype."""
        return self.hidden * element_bytes(dtype)

    def contiguous_holds(self, num_devices: int) -> NDArray[np.bool_]:
        """Return bool [D, E]: experts in contiguous shares, the first (E mod D) devices holding one more.

        Raises ConfigError for more devices than experts.
        """
        if not 1 <= num_devices <= self.num_experts:
            raise ConfigError("num_devices", num_devices, f"from 1 to the {self.num_experts} experts")
        parts = np.array_split(np.arange(self.num_experts), num_devices)
        return np.stack([np.isin(np.arange(self.num_experts), part) for part in parts])

    def describe(self) -> dict[str, Any]:
        """Return every field by name, as JSON can hold them; `read_shape` takes such a file."""
        return asdict(self)


def element_bytes(dtype: str) -> int:
    """Bytes of one number. Raises ConfigError for a dtype that is not in DTYPES."""
    check_choice("dtype", dtype, DTYPES)
    return _BYTES[dtype]


def _shape(
    name: str,
    hidden: int,
    intermediate: int,
    num_experts: int,
    top_k: int,
    shared_intermediate: int,
    num_layers: int,
    num_devices: int,
) -> LayerShape:
    return LayerShape(
        name=name,
        hidden=hidden,
        intermediate=intermediate,
        num_experts=num_experts,
        top_k=top_k,
        shared_intermediate=shared_intermediate,
        num_layers=num_layers,
        num_devices=num_devices,
    )


SHAPES: Final[dict[str, LayerShape]] = {
    shape.name: shape
    for shape in (
        _shape("olmoe", 2048, 1024, 64, 8, 0, 16, 8),
        _shape("deepseek-v2-lite", 2048, 1408, 64, 6, 2816, 26, 8),
        _shape("qwen1.5-moe", 2048, 1408, 60, 4, 5632, 24, 6),
        _shape("mixtral", 4096, 14336, 8, 2, 0, 32, 8),
    )
}
"""The paper's four models (Capacity-Aware Inference, section 4), each with its layout of experts over devices."""

_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "hidden": ("hidden_size", "d_model", "n_embd"),
    "intermediate": (
        "moe_intermediate_size",
        "expert_ffn_hidden_size",
        "intermediate_size",
        "ffn_hidden_size",
    ),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "top_k": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_topk",
        "moe_top_k",
        "moe_k",
        "top_k_experts",
    ),
    "num_layers": ("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
}
_SHARED_SIZES = (
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "moe_shared_expert_intermediate_size",
)
_SHARED_COUNTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")


def read_shape(name_or_file: str | Path) -> LayerShape:
    """Return the shape of a name in SHAPES, or of a JSON file.

    The file is a Hugging Face `config.json` of an MoE (olmoe, qwen2_moe, qwen3_moe, mixtral, deepseek_v2 and the many
    with the same keys; a nested `text_config` is followed), or the fields of `LayerShape` themselves.
    Raises ConfigError for an unknown name or a size that is not allowed, FileNotFoundError, and FileFormatError for a
    file that is not JSON or lacks a key, which it names.
    """
    if str(name_or_file) in SHAPES:
        return SHAPES[str(name_or_file)]
    path = Path(name_or_file)
    if path.is_dir():
        path = path / "config.json"
    if not path.exists():
        if path.suffix == ".json":
            raise FileNotFoundError(f"{path} does not exist")
        raise ConfigError("shape", str(name_or_file), f"one of {', '.join(SHAPES)}, or a JSON file")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise FileFormatError(f"{path} holds no JSON object")
    if "hidden" in body:
        return _from_own_fields(body, path)
    return _from_config(body, path)


def _from_own_fields(body: Mapping[str, Any], path: Path) -> LayerShape:
    names = [field.name for field in fields(LayerShape)]
    if unknown := sorted(set(body) - set(names)):
        raise FileFormatError(
            f"{path} has the unknown key {unknown[0]!r}; a layer shape has {', '.join(names)}"
        )
    required = ("hidden", "intermediate", "num_experts", "top_k")
    if missing := [name for name in required if name not in body]:
        raise FileFormatError(f"{path} lacks {missing[0]!r}; a layer shape needs {', '.join(required)}")
    return LayerShape(**{"name": path.stem} | dict(body))


def _from_config(body: Mapping[str, Any], path: Path) -> LayerShape:
    config = _text_part(body)
    sizes = {field: _first(config, keys, field, path) for field, keys in _KEYS.items()}
    num_layers = sizes.pop("num_layers")
    shape = LayerShape(
        name=str(config.get("model_type") or path.stem),
        shared_intermediate=_shared_intermediate(config, sizes["intermediate"], path),
        num_layers=_moe_layers(config, num_layers, path),
        **sizes,
    )
    devices = max(d for d in range(1, _MOST_DEVICES + 1) if shape.num_experts % d == 0)
    return LayerShape(**asdict(shape) | {"num_devices": devices})


def _text_part(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that has the experts: a model of text and images nests it."""
    for name in _TEXT_CONFIGS:
        if isinstance(body.get(name), Mapping) and not any(key in body for key in _KEYS["num_experts"]):
            return _text_part(body[name])
    return body


def _first(config: Mapping[str, Any], keys: tuple[str, ...], field: str, path: Path) -> Any:
    for key in keys:
        if config.get(key) is not None:
            return _integer(config, key, 1, path)
    raise FileFormatError(
        f"{path} has no {field} of an MoE layer: it needs one of the keys {', '.join(keys)}"
    )


def _integer(config: Mapping[str, Any], key: str, least: int, path: Path) -> int:
    """The integer of a key; `least` where the key is absent or null."""
    value = config.get(key)
    if value is None:
        return least
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key} of {path}", value, f"an integer of at least {least}")
    return value


def _shared_intermediate(config: Mapping[str, Any], intermediate: int, path: Path) -> int:
    """A stated size of all shared experts together, or their number times one expert's size."""
    sizes = [_integer(config, key, 0, path) for key in _SHARED_SIZES]
    counts = [_integer(config, key, 0, path) for key in _SHARED_COUNTS]
    return max(sizes) or max(counts) * intermediate


def _moe_layers(config: Mapping[str, Any], num_layers: int, path: Path) -> int:
    """The number of layers that have experts: without the dense first ones, and those in between."""
    dense = set(config.get("mlp_only_layers") or ())
    first = _integer(config, "first_k_dense_replace", 0, path)
    step = max(_integer(config, "decoder_sparse_step", 0, path), 1)  # every step-th layer, counted from 1
    freq = config.get("moe_layer_freq")
    every = freq if isinstance(freq, int) and freq > 0 else 1
    num_sparse = sum(
        layer >= first and layer not in dense and (layer + 1) % step == 0 and layer % every == 0
        for layer in range(num_layers)
    )
    if num_sparse == 0:
        raise FileFormatError(f"{path} leaves none of its {num_layers} layers to experts")
    return num_sparse
