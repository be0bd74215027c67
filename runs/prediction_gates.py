"""docs/prediction.md, "What gates lack": what may be added to a token's embedding before the routers.

On the bundled model, whose layers are OLMoE's: nothing at all, without the router's norm and with it; then, layer by
layer, what attention gives a token that attends to itself alone, what its experts give, and both, which is `alone`.
Cosine with the true load, mean over 96 windows of the second halves of the held-out text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import evenmoe
from evenmoe.evaluation.prediction import halves
from evenmoe.evaluation.texts import cut_windows, heldout_texts
from evenmoe.models.attach import attach
from evenmoe.models.prediction import true_loads
from evenmoe.routing import Baseline
from evenmoe.scheduling.predictors import cosine

VARIANTS = {
    "embedding alone": {"norm": False},
    "gates: its norm": {},
    "and experts": {"experts": True},
    "and attention to itself": {"attention": True},
    "and both": {"attention": True, "experts": True},
}


@torch.inference_mode()
def chosen(model: Any, norm: bool = True, attention: bool = False, experts: bool = False) -> Tensor:
    """[V, L, E]: the experts that the routers choose for every token id, taken by itself."""
    hidden_VH = model.model.embed_tokens.weight.clone()
    by_layer = []
    for layer in model.model.layers:
        if attention:  # softmax over one key is 1: values pass as they are
            value_VH = layer.self_attn.v_proj(layer.input_layernorm(hidden_VH))
            hidden_VH = hidden_VH + layer.self_attn.o_proj(value_VH)
        normed_VH = layer.post_attention_layernorm(hidden_VH) if norm else hidden_VH
        logits_VE = torch.nn.functional.linear(normed_VH, layer.mlp.gate.weight)
        top_VK = logits_VE.topk(model.config.num_experts_per_tok).indices
        by_layer.append(torch.zeros_like(logits_VE).scatter_(1, top_VK, 1.0))
        if experts:
            hidden_VH = hidden_VH + layer.mlp(normed_VH[None])[0].reshape(hidden_VH.shape)
    return torch.stack(by_layer, 1)


def main() -> None:
    model, tokenizer = evenmoe.load_bundled("text"), evenmoe.bundled_tokenizer("text")
    _, measuring = halves(heldout_texts())
    ids = [window.ids_S for window in cut_windows(measuring, tokenizer, num_windows=96, window_tokens=256)]
    with attach(model, Baseline(), pad_token_id=-1) as attached:
        load_NLE = true_loads(model, attached, ids)
    print("routers are given               cosine   by layer")
    for name, options in VARIANTS.items():
        chosen_VLE = chosen(model, **options).numpy()
        scores_L = cosine([chosen_VLE[ids_S].sum(0) for ids_S in ids], load_NLE).mean(0)
        print(f"{name:30} {np.mean(scores_L):7.3f}   " + " ".join(f"{score:.3f}" for score in scores_L))


if __name__ == "__main__":
    main()
