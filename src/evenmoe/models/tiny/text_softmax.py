"""Text models whose router takes a softmax (over all experts, or over the chosen ones)."""

from __future__ import annotations

from evenmoe.models.tiny.row import HYBRID, Row

ROWS: dict[str, Row] = {
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 512,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "+rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16},
    },
    "deepseek_v2": {"topk_method": "group_limited_greedy"},
    "ernie4_5_moe": {},
    "flex_olmo": {},
    "gpt_oss": {},
    "granitemoe": {},
    "granitemoe_swa": {},
    "granitemoehybrid": {**HYBRID, "mamba_n_heads": 4, "mamba_d_state": 8, "mamba_chunk_size": 16},
    "granitemoeshared": {},
    "hunyuan_v1_moe": {},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
        "mamba_d_state": 8,
    },
    "jetmoe": {"kv_channels": 8, "num_key_value_heads": 2},
    "longcat_flash": {
        "num_layers": 2,
        "zero_expert_num": 2,
        "ffn_hidden_size": 32,
        "expert_ffn_hidden_size": 16,
    },
    "mellum": {},
    "minimax": {},
    "mistral4": {},
    "mixtral": {},
    "olmoe": {},
    "openai_privacy_filter": {},
    "phimoe": {},
    "qwen2_moe": {},
    "qwen3_moe": {"norm_topk_prob": True},
    "qwen3_next": HYBRID,
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
