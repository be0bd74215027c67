"""What evenmoe states about each transformers architecture; `probe.py` checks the statements against the routers.

An architecture is named after its folder in `transformers.models`. "flag" means that the router's
`norm_topk_prob` decides whether its top-k weights are normalised (a router without one always does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.scores import Renormalise, ScoreRule

Kind = Literal["contract", "dbrx", "longcat", "zaya", "ernie_vl", "llama4", "jetmoe"]
"""How a layer is hooked: "contract" is the common router and experts pair, the others are exceptions to it."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Score function and normalisation of one architecture, and how its layers are hooked.

    score: a name in SCORE_FUNCTIONS, "configured" where the model's configuration chooses it, or None where the
        weights are no fixed function of the logits.
    """

    score: str | None
    renormalise: Literal["always", "never", "flag", "joint"]
    kind: Kind = "contract"


def _same(architecture: Architecture, names: str) -> dict[str, Architecture]:
    return dict.fromkeys(names.split(), architecture)


ARCHITECTURES: dict[str, Architecture] = {
    **_same(
        Architecture(score="softmax", renormalise="flag"),
        "flex_olmo mellum mistral4 olmoe qwen2_moe qwen3_moe qwen3_next qwen3_omni_moe qwen4_exp",
    ),
    **_same(
        Architecture(score="softmax", renormalise="always"),
        "aria ernie4_5_moe gpt_oss granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe minimax "
        "mistral_large4 mixtral openai_privacy_filter qwen3_5_moe qwen3_vl_moe",
    ),
    **_same(
        Architecture(score="softmax", renormalise="never"), "deepseek_ocr2 deepseek_v2 jamba unlimited_ocr"
    ),
    **_same(
        Architecture(score="sigmoid", renormalise="flag"),
        "axk1 axk2 bailing_hybrid beam deepseek_v3 deepseek_v32 dots1 dots3_note exaone_moe flint glm4_moe "
        "glm4_moe_lite glm4v_moe glm5_next glm_moe_dsa hy_v4 kimi_linear kolibri1 lfm2_moe "
        "mimo_v2_flash nemotron_h solar_open",
    ),
    **_same(
        Architecture(score="sigmoid", renormalise="always"),
        "afmoe hy_v3 laguna minimax_m2 minimax_m3_vl step3p7",
    ),
    **_same(Architecture(score="configured", renormalise="always"), "deepseek_v4 inkling2 muse_spark"),
    **_same(Architecture(score="identity", renormalise="always"), "diffusion_gemma gemma4"),
    "cohere2_moe": Architecture(score="configured", renormalise="flag"),
    "dbrx": Architecture(score="softmax", renormalise="flag", kind="dbrx"),
    "ernie4_5_vl_moe": Architecture(score="softmax", renormalise="always", kind="ernie_vl"),
    "inkling": Architecture(score="sigmoid", renormalise="joint"),
    "jetmoe": Architecture(score="softmax", renormalise="always", kind="jetmoe"),
    "llama4": Architecture(score="sigmoid", renormalise="never", kind="llama4"),
    "longcat_flash": Architecture(score="softmax", renormalise="never", kind="longcat"),
    "phimoe": Architecture(score=None, renormalise="never"),
    "zaya": Architecture(score="softmax", renormalise="never", kind="zaya"),
}

UNSUPPORTED: dict[str, str] = {
    "switch_transformers": "its router gives one-hot masks and drops by an expert_capacity of its own",
    "nllb_moe": "its router gives one-hot masks",
    "doge": "its experts are retrieved by product keys",
    "vitpose_backbone": "its experts are chosen by the data set, not routed",
}

_SCORE_MODULES = {"Sigmoid": "sigmoid", "SqrtSoftplusActivation": "sqrt_softplus", "Softmax": "softmax"}


def architecture_name(module: nn.Module) -> str:
    """Return the transformers folder that a module's class comes from, or the class's own module name."""
    parts = type(module).__module__.split(".")
    return parts[2] if parts[:2] == ["transformers", "models"] and len(parts) > 2 else ".".join(parts)


def supported_names() -> str:
    """Return the supported architectures as text, for messages."""
    return ", ".join(sorted(ARCHITECTURES))


def check_supported(model: nn.Module) -> None:
    """Raise UnsupportedModelError if any part of the model is of an architecture known not to work."""
    for module in model.modules():
        name = architecture_name(module)
        if name in UNSUPPORTED:
            raise UnsupportedModelError(
                f"{type(model).__name__} is of architecture {name}, to which evenmoe cannot attach: "
                f"{UNSUPPORTED[name]}. Supported: {supported_names()}."
            )


def stated_rule(name: str, router: nn.Module, block: nn.Module) -> ScoreRule | None:
    """Return the score rule stated for this router; None if none is stated or there is none."""
    architecture = ARCHITECTURES.get(name)
    score = architecture.score if architecture is not None else None
    if score == "configured":
        score = _configured_score(router)
    if architecture is None or score is None:
        return None
    power = getattr(block, "moe_normalize_expert_weights", 1.0) if architecture.kind == "dbrx" else 1.0
    return ScoreRule(
        function=score,
        renormalise=_renormalise(architecture, router, power),
        power=float(power or 1.0),
        expert_scale_E=getattr(router, "per_expert_scale", None),
    )


def _renormalise(architecture: Architecture, router: nn.Module, power: float | None) -> Renormalise:
    if architecture.renormalise == "flag":
        if getattr(router, "expert_selection_fn", "") == "softmax":
            return "top-k"
        return "top-k" if power is not None and getattr(router, "norm_topk_prob", True) else "none"
    renormalise: dict[str, Renormalise] = {"always": "top-k", "never": "none", "joint": "joint"}
    return renormalise[architecture.renormalise]


def _configured_score(router: nn.Module) -> str | None:
    chosen = getattr(router, "expert_selection_fn", None)
    if isinstance(chosen, str):
        return chosen
    for attribute in ("score_fn", "scoring_function"):
        if hasattr(router, attribute):
            return _SCORE_MODULES.get(type(getattr(router, attribute)).__name__)
    return None
