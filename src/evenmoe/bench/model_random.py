"""RandomModel: a causal language model of a shape's real dimensions with random weights and few layers.

Its routers' answers are drawn from loads, because routers with random weights are even. Shape letters: T tokens,
E experts, L MoE layers,
C calls (forwards of one pass).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from evenmoe.bench.block import Implementation, OneLayer
from evenmoe.bench.draws import draw_routing
from evenmoe.bench.model_routers import RouterOutput
from evenmoe.bench.shares import Shares
from evenmoe.costs import SHAPES, LayerShape
from evenmoe.errors import ConfigError, ShapeError, check_choice
from evenmoe.models.sites import find_sites

VOCAB = 1024
"""Small: an embedding's and an output's cost is not that of an MoE model's layers."""
_HEAD = 128
"""Size of an attention head in all four models."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomModel:
    """`num_layers` layers of a shape, all of them MoE layers; every layer draws its routing from the same shares anew.

    shape: of the architecture that its name says, one of costs.SHAPES. Raises ConfigError for another name and for no
    layer, ShapeError for shares of another number of experts.
    """

    shape: LayerShape
    shares: Shares
    num_layers: int = 2
    dtype: torch.dtype = torch.float32
    implementation: Implementation = "eager"
    seed: int = 0

    routes_itself = False

    def __post_init__(self) -> None:
        check_choice("shape", self.shape.name, SHAPES)
        if self.num_layers < 1:
            raise ConfigError("layers", self.num_layers, "at least 1")
        if self.shares.share_E.shape[0] != self.shape.num_experts:
            raise ShapeError(
                f"shares of {self.shares.share_E.shape[0]} experts for {self.shape.num_experts} of {self.shape.name}"
            )

    def build(self) -> nn.Module:
        """Return the model, in eval mode. Each layer's experts are views of one expert until `fill_experts`."""
        model: Any = skeleton(self.shape, self.num_layers).to(self.dtype).eval()
        model.config._experts_implementation = self.implementation
        model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)  # computed, not loaded
        experts = {site.experts for site in find_sites(model)}
        generator = torch.Generator().manual_seed(self.seed)
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                own_shape = (1, *parameter.shape[1:]) if module in experts else parameter.shape
                real = random_weights(torch.empty(own_shape, dtype=self.dtype), generator)
                setattr(module, name, nn.Parameter(real.expand(parameter.shape), requires_grad=False))
        built: nn.Module = model
        return built

    def fill_experts(self, model: nn.Module, seed: int) -> None:
        """Give each expert that is in `model` weights of its own."""
        generator = torch.Generator().manual_seed(seed)
        for site in find_sites(model):
            assert site.experts is not None
            for name, parameter in list(site.experts.named_parameters(recurse=False)):
                filled = random_weights(torch.empty(parameter.shape, dtype=parameter.dtype), generator)
                setattr(site.experts, name, nn.Parameter(filled, requires_grad=False))

    def answers(self, model: nn.Module, num_tokens_C: Sequence[int]) -> list[list[RouterOutput]]:
        """Return [C][L]: what each layer's router says in each forward about the tokens of all devices."""
        layers = [OneLayer(model.config, site.block) for site in find_sites(model)]
        return [
            [self._answer(one, num_tokens, 1_009 * call + 7_919 * layer) for layer, one in enumerate(layers)]
            for call, num_tokens in enumerate(num_tokens_C)
        ]

    def _answer(self, layer: OneLayer, num_tokens: int, number: int) -> RouterOutput:
        routing = draw_routing(self.shares.share_E, num_tokens, self.shape.top_k, self.seed + number)
        answer = layer.answer_for(routing)
        return answer.logits_TE, answer.weight_TK.to(self.dtype), answer.index_TK

    def describe(self) -> dict[str, Any]:
        """Return what the model is, as data."""
        return {
            "model": f"{self.num_layers} layers of {self.shape.name}'s sizes, random weights",
            "shape": self.shape.describe(),
            "layers": self.num_layers,
            "vocabulary": VOCAB,
            "routing": f"drawn from {self.shares.source}",
            "skew": self.shares.skew,
            "dtype": str(self.dtype).removeprefix("torch."),
            "experts_implementation": self.implementation,
        }


def skeleton(shape: LayerShape, num_layers: int) -> nn.Module:
    """Return the causal language model of a shape's architecture and sizes, on the meta device: without weights."""
    config, model_class = _CONFIGS[shape.name](shape, num_layers)
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    return model


def random_weights(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with ones where it is a norm's weight, else with numbers that keep outputs as large as inputs."""
    if tensor.dim() == 1:
        return tensor.fill_(1.0)
    bound = (3.0 / tensor.shape[-1]) ** 0.5
    return tensor.uniform_(-bound, bound, generator=generator)


def _common(shape: LayerShape, num_layers: int) -> dict[str, Any]:
    num_heads = max(shape.hidden // _HEAD, 1)
    return {
        "vocab_size": VOCAB,
        "hidden_size": shape.hidden,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "num_experts_per_tok": shape.top_k,
        "max_position_embeddings": 32768,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _olmoe(shape: LayerShape, num_layers: int) -> tuple[Any, Any]:
    config = OlmoeConfig(
        **_common(shape, num_layers), intermediate_size=shape.intermediate, num_experts=shape.num_experts
    )
    return config, OlmoeForCausalLM


def _mixtral(shape: LayerShape, num_layers: int) -> tuple[Any, Any]:
    common = _common(shape, num_layers)
    common["num_key_value_heads"] = max(common["num_attention_heads"] // 4, 1)
    config = MixtralConfig(
        **common, intermediate_size=shape.intermediate, num_local_experts=shape.num_experts
    )
    return config, MixtralForCausalLM


def _qwen2_moe(shape: LayerShape, num_layers: int) -> tuple[Any, Any]:
    config = Qwen2MoeConfig(
        **_common(shape, num_layers),
        moe_intermediate_size=shape.intermediate,
        num_experts=shape.num_experts,
        shared_expert_intermediate_size=shape.shared_intermediate,
    )
    return config, Qwen2MoeForCausalLM


def _deepseek_v2(shape: LayerShape, num_layers: int) -> tuple[Any, Any]:
    """All layers are MoE layers; the real model's first one is dense."""
    config = DeepseekV2Config(
        **_common(shape, num_layers),
        moe_intermediate_size=shape.intermediate,
        n_routed_experts=shape.num_experts,
        n_shared_experts=shape.shared_intermediate // shape.intermediate,
        first_k_dense_replace=0,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
    )
    return config, DeepseekV2ForCausalLM


_CONFIGS: dict[str, Callable[[LayerShape, int], tuple[Any, Any]]] = {
    "olmoe": _olmoe,
    "deepseek-v2-lite": _deepseek_v2,
    "qwen1.5-moe": _qwen2_moe,
    "mixtral": _mixtral,
}
