"""Text models whose router scores each expert by itself: a sigmoid, or DeepSeek V4's square root of softplus."""

from __future__ import annotations

from evenmoe.models.tiny.row import HYBRID, Row

ROWS: dict[str, Row] = {
    "afmoe": {},
    "axk1": {},
    "axk2": {"gated_norm_rank": 4},
    "bailing_hybrid": HYBRID,
    "beam": {},
    "cohere2_moe": {"num_shared_experts": 1, "expert_selection_fn": "sigmoid"},
    "deepseek_v3": {},
    "deepseek_v32": {},
    "deepseek_v4": {
        "mlp_layer_types": ["hash_moe", "moe"],
        "layer_types": ["sliding_attention", "sliding_attention"],
        "num_key_value_heads": 1,
        "hc_mult": 2,
        "hc_sinkhorn_iters": 2,
        "o_groups": 2,
        "o_lora_rank": 8,
    },
    "dots1": {"norm_topk_prob": True},
    "dots3_note_text": {"shared_experts_intermediate_size": 16},
    "exaone_moe": {},
    "flint": {"mlp_only_layers": []},
    "glm4_moe": {},
    "glm4_moe_lite": {},
    "glm_moe_dsa": {},
    "hy_v3": {},
    "hy_v4": {"hc_mult": 2},
    "kimi_linear": HYBRID,
    "kolibri1": {},
    "laguna": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"intermediate_size_mlp": 16},
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "minimax_m2": {},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
    },
    "solar_open": {},
}
