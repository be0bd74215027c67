"""Model folders that vLLM's CPU kernels take: hidden and expert sizes are multiples of 32."""

from __future__ import annotations

import os

import pytest

from evenmoe.serving.launch.traps import lead_around_traps

lead_around_traps()  # an environment as pip leaves it

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "head_dim": 32,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "tie_word_embeddings": False,
}
LATENT = {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "q_lora_rank": None,
}
"""Sizes that vLLM's latent attention takes: 512 + 64."""
OVERRIDES = {
    "olmoe": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 64},
    "mixtral": {},
    "qwen3_moe": {},
    "deepseek_v2": LATENT,
}
TINY = tuple(OVERRIDES)

# The workers' threads and processes must be few, and nothing may be fetched. Set before vLLM is imported.
os.environ.update(
    {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A function: the folder of a tiny random model of an architecture in TINY."""
    root = tmp_path_factory.mktemp("models")

    def folder_of(architecture):
        folder = root / architecture
        if not folder.is_dir():
            from evenmoe.models.tiny.build import tiny_model

            config = SIZES | OVERRIDES[architecture]
            fields = tiny_fields(architecture)
            model = tiny_model(architecture, **{key: value for key, value in config.items() if key in fields})
            model.save_pretrained(folder)
        return folder

    return folder_of


def tiny_fields(architecture):
    """The fields of an architecture's configuration."""
    from dataclasses import fields

    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return {field.name for field in fields(CONFIG_MAPPING[architecture])}


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """The bundled text model as vLLM can serve it: with an output embedding of its own."""
    from evenmoe.models.bundled import bundled_names, bundled_path
    from evenmoe.serving.launch.untying import untied

    if "text" not in bundled_names():
        pytest.skip("the bundled model is not built")
    return untied(bundled_path("text"), tmp_path_factory.mktemp("untied"))
