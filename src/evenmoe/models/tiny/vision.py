"""Vision-language models: a text part as in the text tables, and the smallest vision part that builds."""

from __future__ import annotations

from evenmoe.models.tiny.defaults import IMAGE_START_ID
from evenmoe.models.tiny.row import HYBRID, Row

_OCR_SAM: Row = {
    "output_channels": 16,
    "mlp_dim": 32,
    "global_attn_indexes": [1],
    "window_size": 4,
    "downsample_channels": [16, 32],
}
_SIGLIP: Row = {"model_type": "siglip_vision_model"}
_MROPE: Row = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_ERNIE_MROPE: Row = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}

ROWS: dict[str, Row] = {
    "aria": {"vision_config": {"model_type": "idefics3_vision"}, "projector_patch_to_query_dict": {64: 8}},
    "deepseek_ocr2": {
        "text_config": {"topk_method": "group_limited_greedy"},
        "vision_config": {"sam_config": _OCR_SAM, "encoder_config": {}},
    },
    "diffusion_gemma": {
        "text_config": {},
        "vision_config": {"model_type": "gemma4_vision", "pooling_kernel_size": 2},
        "canvas_length": 8,
    },
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [16, 16],
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": _ERNIE_MROPE,
        },
    },
    "gemma4": {
        "text_config": {
            "enable_moe_block": True,
            "vocab_size_per_layer_input": 128,
            "hidden_size_per_layer_input": 0,
        },
        "vision_config": {"pooling_kernel_size": 2},
        "audio_config": None,
    },
    "glm4v_moe": {
        "text_config": {"num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": _MROPE}
    },
    "glm5_next": {
        "text_config": {
            "layer_types": ["linear_attention", "indexed_attention"],
            "qk_rope_head_dim": 0,
            "index_kpool": 4,
            "hc_mult": 2,
        },
    },
    "inkling_mm_model": {"vision_config": {"num_hidden_layers": 4}},
    "inkling2": {},
    "kimi_k25": {"text_config": {"model_type": "deepseek_v3"}},
    "llama4": {
        "text_config": {"intermediate_size_mlp": 16},
        "vision_config": {
            "intermediate_size": 128,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
    },
    "minimax_m3_vl": {
        "text_config": {"model_type": "minimax_m3_vl_text"},
        "vision_config": {"model_type": "minimax_m3_vl_vision"},
    },
    "mistral_large4": {"vision_config": {"model_type": "pixtral"}},
    "muse_spark": {
        "text_config": {"moe_hidden_size": 16},
        "audio_config": {
            "num_hidden_layers": 1,
            "patch_sizes": [4],
            "hidden_sizes": [8],
            "depths": [1],
            "out_hidden_size": 32,
        },
        "out_hidden_size": 128,
    },
    "qwen3_5_moe": {"text_config": {**HYBRID, "rope_parameters": _MROPE}},
    "qwen3_omni_moe_thinker": {"+vision_start_token_id": IMAGE_START_ID},
    "qwen3_vl_moe": {"text_config": {"rope_parameters": _MROPE}},
    "qwen4_exp": {
        "text_config": {
            "layer_types": ["linear_attention", "indexed_attention"],
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 16,
            "indexer_compress_ratio": 4,
            "hc_count": 2,
            "hc_lowrank": 8,
        },
    },
    "step3p7": {},
    "unlimited_ocr": {"vision_config": {"sam_config": _OCR_SAM, "encoder_config": {}}},
}
