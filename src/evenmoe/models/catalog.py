"""The catalogue: every architecture evenmoe supports, as data for listings, and those it does not, with the reason.

How an architecture scores and normalises is stated once, in `architectures`; here is what a reader wants beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from evenmoe.errors import check_choice
from evenmoe.models.architectures import ARCHITECTURES, UNSUPPORTED, Architecture

__all__ = ["CATALOG", "UNSUPPORTED", "CatalogEntry", "catalog_entry"]

OLDEST = "5.19"
"""The oldest transformers release that evenmoe supports."""

Modality = Literal["text", "vision-language"]


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One supported architecture.

    model_type: as in a checkpoint's config.json.
    folder: where transformers keeps its MoE layers; the name in `ARCHITECTURES`.
    shared_experts: whether its MoE layers also run experts that are not routed (never capped).
    checkpoints: examples on the Hugging Face Hub, as their makers or transformers' documentation name them.
    note: a limit or peculiarity, or "".
    since: the first transformers release that has it, or the oldest one supported if that is later.
    """

    model_type: str
    folder: str
    modality: Modality = "text"
    shared_experts: bool = False
    checkpoints: tuple[str, ...] = ()
    note: str = ""
    since: str = OLDEST

    @property
    def architecture(self) -> Architecture:
        """What is stated about its router."""
        return ARCHITECTURES[self.folder]

    @property
    def true_scores(self) -> bool:
        """Whether scores outside the top-k are known, as Expanded Drop and Fill need."""
        return self.architecture.score is not None


def catalog_entry(model_type: str) -> CatalogEntry:
    """Return the entry of a model type; raise ConfigError, naming the known ones, if there is none."""
    check_choice("model_type", model_type, CATALOG)
    return CATALOG[model_type]


def _row(
    model_type: str,
    *checkpoints: str,
    modality: Modality = "text",
    shared: bool = False,
    note: str = "",
    folder: str = "",
    since: str = OLDEST,
) -> CatalogEntry:
    return CatalogEntry(
        model_type=model_type,
        folder=folder or model_type,
        modality=modality,
        shared_experts=shared,
        checkpoints=checkpoints,
        note=note,
        since=since,
    )


_vision = partial(_row, modality="vision-language")

_LLAMA4 = "top-1; scales the input of the expert; transformers runs every expert on every token, evenmoe the kept pairs"
_GEMMA4 = "a dense MLP runs beside the experts; weights carry a factor per expert"

_TEXT = (
    _row("afmoe", "arcee-ai/Trinity-Mini", shared=True),
    _row("axk1", "skt/A.X-K1", shared=True),
    _row("axk2", "skt/A.X-K2", shared=True),
    _row("bailing_hybrid", "inclusionAI/Ling-3.0-Flash", since="5.20", shared=True),
    _row("beam", "reflection/Beam-1.0-501B-A23B", since="5.20"),
    _row(
        "cohere2_moe",
        "CohereLabs/command-a-plus-05-2026",
        shared=True,
        note="the configuration chooses softmax or sigmoid, and the shared experts",
    ),
    _row("dbrx", "databricks/dbrx-instruct"),
    _row("deepseek_v2", "deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V2", shared=True),
    _row("deepseek_v3", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1", shared=True),
    _row("deepseek_v32", "deepseek-ai/DeepSeek-V3.2-Exp", shared=True),
    _row(
        "deepseek_v4",
        "deepseek-ai/DeepSeek-V4-Flash-Base",
        shared=True,
        note="hash layers choose by token id; substitutes there go by score",
    ),
    _row("dots1", "rednote-hilab/dots.llm1.base", "rednote-hilab/dots.llm1.inst", shared=True),
    _row(
        "dots3_note_text",
        "dots-studio/dots3-note-prev",
        since="5.23",
        shared=True,
        folder="dots3_note",
        note="text model; the routed experts of the image encoder are left alone",
    ),
    _row("ernie4_5_moe", "baidu/ERNIE-4.5-21B-A3B-PT", shared=True),
    _row("exaone_moe", "LGAI-EXAONE/K-EXAONE-236B-A23B", shared=True),
    _row("flex_olmo", "allenai/FlexOlmo-7x7B-1T"),
    _row("flint", "RecursiveSI/flint", since="5.21", shared=True),
    _row("glm4_moe", "zai-org/GLM-4.5", "zai-org/GLM-4.5-Air", shared=True),
    _row("glm4_moe_lite", "zai-org/GLM-4.7-Flash", shared=True),
    _row("glm_moe_dsa", "zai-org/GLM-5", shared=True),
    _row("gpt_oss", "openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    _row("granitemoe", "ibm-granite/granite-3.1-1b-a400m-base", "ibm-granite/granite-3.1-3b-a800m-base"),
    _row("granitemoe_swa", "ibm-granite/granite-swash-3b-a600m", shared=True),
    _row("granitemoehybrid", "ibm-granite/granite-4.0-h-tiny", shared=True),
    _row("granitemoeshared", shared=True),
    _row("hunyuan_v1_moe", "tencent/Hunyuan-A13B-Instruct", shared=True),
    _row("hy_v3", "tencent/Hy3-preview", shared=True),
    _row("hy_v4", "tencent/Hy4-preview", shared=True),
    _row("jamba", "ai21labs/Jamba-v0.1", "ai21labs/AI21-Jamba-Mini-1.5"),
    _row("jetmoe", "jetmoe/jetmoe-8b", note="MLP experts only; the experts of its attention are left alone"),
    _row("kimi_linear", "moonshotai/Kimi-Linear-48B-A3B-Instruct", shared=True),
    _row("kolibri1", "Aleph-Alpha/Kolibri-1", since="5.20", shared=True),
    _row("laguna", "poolside/Laguna-XS.2", shared=True),
    _row("lfm2_moe", "LiquidAI/LFM2-8B-A1B"),
    _row("llama4_text", shared=True, folder="llama4", note=_LLAMA4),
    _row(
        "longcat_flash",
        "meituan-longcat/LongCat-Flash-Chat",
        note="identity experts cost nothing and are never capped",
    ),
    _row("mellum", "JetBrains/Mellum2-12B-A2.5B-Base"),
    _row("mimo_v2_flash", "XiaomiMiMo/MiMo-V2-Flash"),
    _row("minimax", "MiniMaxAI/MiniMax-Text-01-hf"),
    _row("minimax_m2", "MiniMaxAI/MiniMax-M2"),
    _row("mistral4", "mistralai/Mistral-Small-4-119B-2603", shared=True),
    _row("mixtral", "mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
    _row("nemotron_h", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", shared=True),
    _row("olmoe", "allenai/OLMoE-1B-7B-0924", "allenai/OLMoE-1B-7B-0125"),
    _row("openai_privacy_filter", "openai/privacy-filter", note="a token classifier, not a generator"),
    _row(
        "phimoe",
        "microsoft/Phi-3.5-MoE-instruct",
        note="sparsemixer weights are no function of the logits: Expanded Drop and Fill are refused",
    ),
    _row("qwen2_moe", "Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen2-57B-A14B", shared=True),
    _row("qwen3_moe", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B"),
    _row("qwen3_next", "Qwen/Qwen3-Next-80B-A3B-Instruct", shared=True),
    _row("solar_open", "upstage/Solar-Open-100B", shared=True),
    _row("zaya", "Zyphra/ZAYA1-8B", note="top-1; a token that skips its expert is no load"),
)

_VISION = (
    _vision("aria", "rhymes-ai/Aria", shared=True),
    _vision("deepseek_ocr2", "deepseek-ai/DeepSeek-OCR-2", shared=True),
    _vision(
        "diffusion_gemma",
        "google/diffusiongemma-26B-A4B-it",
        note=f"encoder and block-diffusion decoder both count; {_GEMMA4}",
    ),
    _vision(
        "ernie4_5_vl_moe",
        "baidu/ERNIE-4.5-VL-28B-A3B-PT",
        shared=True,
        note="separate experts for text and for image tokens, each with a capacity of its own",
    ),
    _vision("gemma4", "google/gemma-4-26B-A4B-it", note=_GEMMA4),
    _vision("glm4v_moe", "zai-org/GLM-4.5V", shared=True),
    _vision("glm5_next", "zai-org/GLM-5.3-Flash", shared=True),
    _vision(
        "inkling_mm_model",
        "thinkingmachines/Inkling",
        shared=True,
        folder="inkling",
        note="weights are normalised together with the shared experts'",
    ),
    _vision(
        "inkling2",
        "thinkingmachines/Inkling-2-Small-MXFP8",
        since="5.23",
        note="the configuration chooses the score function",
    ),
    _vision(
        "kimi_k25",
        "moonshotai/Kimi-K2.5",
        shared=True,
        folder="deepseek_v3",
        note="transformers refuses to set the grouped_mm experts for this class (it is the default anyway)",
    ),
    _vision("llama4", "meta-llama/Llama-4-Scout-17B-16E", shared=True, note=_LLAMA4),
    _vision("minimax_m3_vl", "MiniMaxAI/MiniMax-M3", shared=True),
    _vision("mistral_large4", "mistralai/Mistral-Large-4-1T-A52B", since="5.22", shared=True),
    _vision(
        "muse_spark",
        "meta-models/Muse-Spark-Open-816B-A42B",
        since="5.20",
        note="the configuration chooses the score function",
    ),
    _vision("qwen3_5_moe", "Qwen/Qwen3.5-35B-A3B", shared=True),
    _vision(
        "qwen3_omni_moe_thinker",
        "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        folder="qwen3_omni_moe",
        note="the thinker, which reads and writes text; the talker is not checked",
    ),
    _vision("qwen3_vl_moe", "Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Instruct"),
    _vision("qwen4_exp", "Qwen/Qwen4-Exp", shared=True),
    _vision("step3p7", "stepfun-ai/Step-3.7-Flash", shared=True),
    _vision("unlimited_ocr", "baidu/Unlimited-OCR", since="5.20", shared=True),
)

CATALOG: dict[str, CatalogEntry] = {entry.model_type: entry for entry in (*_TEXT, *_VISION)}
"""Every supported architecture by its model type: text models, then vision-language ones, each by name."""
