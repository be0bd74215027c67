"""Loading models from safetensors checkpoints, in full precision or in 4 bits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.models.auto import modeling_auto

from evenmoe.errors import ConfigError, UnsupportedModelError, check_choice
from evenmoe.models.sites import find_sites, left_alone

Quantization = Literal["nf4"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.*", "*.tiktoken")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def load(
    path_or_name: str | Path,
    *,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load a causal language model or vision-language model, in eval mode.

    path_or_name: a directory with `config.json` and `*.safetensors`, or a name on the Hugging Face hub.
    quantization: "nf4" holds linear layers and experts in 4 bits through bitsandbytes (`pip install
        'evenmoe[quantization]'`); routers and embeddings keep their precision. The experts are read in full
        precision first.
    dtype: "auto" takes the checkpoint's own; else "float32", "bfloat16", "float16" or a torch dtype.
    device: where the model goes, such as "cuda:0"; None: the CPU.
    trust_remote_code: run Python code that comes with the checkpoint. Off unless asked for.

    Raises ConfigError for a path or name without a safetensors checkpoint (pickled weights are refused, since
    loading them can run code) and for options that are not allowed; UnsupportedModelError if the checkpoint needs
    code of its own, and for nf4 on a model without MoE layers.
    """
    if quantization is not None:
        check_choice("quantization", quantization, ("nf4",))
        _require_bitsandbytes()
    options: dict[str, Any] = {
        "dtype": _dtype(dtype),
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
        "device_map": None if device is None else {"": str(device)},
    }
    _check_checkpoint(path_or_name)
    config = _config(path_or_name, trust_remote_code)
    model_class = _model_class(config)
    if quantization is not None:
        options["quantization_config"] = _nf4(
            _full_precision_modules(model_class, config), options["dtype"], config
        )
    try:
        model: nn.Module = model_class.from_pretrained(str(path_or_name), config=config, **options)
    except OSError as error:
        raise ConfigError(
            "path_or_name", str(path_or_name), f"a checkpoint with safetensors weights ({error})"
        ) from error
    if quantization is not None:
        _quantize_experts(model)
    return model.eval()


def load_tokenizer(path_or_name: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that goes with a checkpoint. Raises ConfigError if there is none."""
    path = _check_exists(path_or_name)
    if path is not None and not any(any(path.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ConfigError("path_or_name", str(path), "a directory with a tokenizer, such as tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(str(path_or_name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "path_or_name", str(path_or_name), f"a checkpoint with a tokenizer ({error})"
        ) from error


def _check_exists(path_or_name: str | Path) -> Path | None:
    """Return the directory, or None for a name on the hub; raise ConfigError for what can be neither."""
    path, text = Path(path_or_name).expanduser(), str(path_or_name)
    if text and path.is_dir():
        return path
    is_path = (
        isinstance(path_or_name, Path)
        or path.exists()
        or text.startswith((".", "/", "~"))
        or text.count("/") > 1
    )
    if is_path or not text:
        problem = "it is a file" if path.is_file() else "no such directory"
        raise ConfigError(
            "path_or_name", text, f"a checkpoint's directory, or a name on the Hugging Face hub: {problem}"
        )
    return None


def _check_checkpoint(path_or_name: str | Path) -> None:
    path = _check_exists(path_or_name)
    if path is None:
        return
    if not (path / "config.json").is_file():
        raise ConfigError("path_or_name", str(path), "a directory with config.json")
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern)
    )
    found = (
        f"only {', '.join(pickled)}, which are pickles and can run code when loaded" if pickled else "none"
    )
    raise ConfigError("path_or_name", str(path), f"a directory with *.safetensors weights; it has {found}")


def _config(path_or_name: str | Path, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(str(path_or_name), trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ConfigError(
            "path_or_name",
            str(path_or_name),
            f"a checkpoint's directory, or a reachable name on the Hugging Face hub ({error})",
        ) from error
    except ValueError as error:
        raise UnsupportedModelError(
            f"{path_or_name}: this transformers has no class for the checkpoint, or it brings code of its "
            f"own, which runs only with trust_remote_code=True ({error})"
        ) from error


def _model_class(config: Any) -> Any:
    for mapping in (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    ):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    return AutoModelForCausalLM


def _dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    if isinstance(dtype, torch.dtype):
        return dtype
    check_choice("dtype", dtype, _DTYPES)
    named: torch.dtype | str = "auto" if dtype == "auto" else getattr(torch, dtype)
    return named


def _require_bitsandbytes() -> None:
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "quantization", "nf4", "available with bitsandbytes: pip install 'evenmoe[quantization]'"
        )


def _nf4(keep: list[str], dtype: torch.dtype | str, config: Any) -> BitsAndBytesConfig:
    compute = dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=keep,
    )


def _full_precision_modules(model_class: Any, config: Any) -> list[str]:
    """Return the names of modules that nf4 leaves alone: the routers, which decide, and the output embedding."""
    build = getattr(model_class, "_from_config", None) or model_class.from_config
    with torch.device("meta"):
        skeleton = build(config)
    output = skeleton.get_output_embeddings()
    names = [name for name, module in skeleton.named_modules() if output is not None and module is output]
    return [
        *names,
        *left_alone(skeleton),
        *(f"{site.name}.{_name_of(site.router, site.block)}" for site in find_sites(skeleton)),
    ]


def _name_of(child: nn.Module, parent: nn.Module) -> str:
    return next(name for name, module in parent.named_children() if module is child)


def _quantize_experts(model: nn.Module) -> None:
    """Hold every expert matrix in 4 bits: transformers does so for linear layers only, and fused experts are none."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for site in find_sites(model):
        owners = (
            [site.experts]
            if site.experts is not None
            else [site.block.input_linear, site.block.output_linear]
        )
        for owner in (
            part for module in owners if isinstance(module, nn.Module) for part in list(module.modules())
        ):
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if parameter.dim() >= 2 and parameter.is_floating_point() and "bias" not in name:
                    replace_parameter_4bit(owner, name, quant_type="nf4")
