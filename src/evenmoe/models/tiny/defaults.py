"""Sizes every tiny model shares; a field applies where the configuration class has one of that name."""

from __future__ import annotations

from typing import Any

NUM_LAYERS = 2
NUM_EXPERTS = 8
TOP_K = 2
HIDDEN = 32
VOCAB = 128

FIRST_TEXT_ID, LAST_TEXT_ID = 10, 99  # ordinary tokens; below are special ones, above are media placeholders
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
IMAGE_ID, VIDEO_ID, IMAGE_START_ID, IMAGE_END_ID, AUDIO_ID = 120, 121, 122, 123, 124

_EXPERTS = {
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        NUM_EXPERTS,
    ),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k_experts"), TOP_K),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "share_expert_dim",
        ),
        16,
    ),
    "first_k_dense_replace": 0,
    "num_dense_layers": 0,
    "moe_layer_start_index": 0,
    "mlp_layer_types": ["sparse"] * NUM_LAYERS,
    "n_group": 2,
    "topk_group": 1,
}

_ATTENTION = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "sliding_window": 32,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
}

_TOKENS = {
    "vocab_size": VOCAB,
    "pad_token_id": PAD_ID,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    **dict.fromkeys(("image_token_id", "image_token_index"), IMAGE_ID),
    **dict.fromkeys(("video_token_id", "video_token_index"), VIDEO_ID),
    **dict.fromkeys(
        ("vision_start_token_id", "image_start_token_id", "boi_token_id", "boi_token_index"), IMAGE_START_ID
    ),
    **dict.fromkeys(
        ("vision_end_token_id", "image_end_token_id", "eoi_token_id", "eoi_token_index"), IMAGE_END_ID
    ),
    "audio_token_id": AUDIO_ID,
}

TEXT_DEFAULTS: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 16,
    "num_hidden_layers": NUM_LAYERS,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "num_nextn_predict_layers": 0,
    "num_mtp_layers": 0,
    "projection_hidden_size": HIDDEN,
    "projector_hidden_size": HIDDEN,
    **_EXPERTS,
    **_ATTENTION,
    **_TOKENS,
}

MEDIA_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("depth", "num_hidden_layers", "n_layers", "encoder_layers"), 2),
    **dict.fromkeys(("hidden_size", "intermediate_size", "d_model", "encoder_ffn_dim"), HIDDEN),
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "output_dim", "output_proj_dims"), HIDDEN),
    **dict.fromkeys(
        ("num_heads", "num_attention_heads", "num_key_value_heads", "encoder_attention_heads"), 4
    ),
    **dict.fromkeys(("projection_intermediate_size", "projection_hidden_dim"), HIDDEN),
    "head_dim": 8,
    "downsample_hidden_size": 8,
    "num_mel_bins": 16,
    "n_mel_bins": 8,
    "mel_vocab_size": 16,
    "position_embedding_size": 64,
    "posemb_grid_size": 8,
    "pos_emb_height": 8,
    "pos_emb_width": 8,
    "patch_size": 4,
    "image_size": 32,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
    "initializer_range": 0.08,
}
