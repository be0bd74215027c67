"""OneLayer: a model of one MoE layer of real dimensions, with random weights, whose router's answer can be given.

Shape letters: T tokens, E experts, K top-k, H hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DeepseekV2Config, MixtralConfig, OlmoeConfig, PreTrainedConfig, Qwen2MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from evenmoe.bench.draws import DrawnRouting
from evenmoe.costs import LayerShape
from evenmoe.errors import ConfigError
from evenmoe.models.architectures import stated_rule

Implementation = Literal["eager", "grouped_mm", "batched_mm"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)
_ARCHITECTURES = {
    "olmoe": "olmoe",
    "deepseek-v2-lite": "deepseek_v2",
    "deepseek_v2": "deepseek_v2",
    "qwen1.5-moe": "qwen2_moe",
    "qwen2_moe": "qwen2_moe",
    "mixtral": "mixtral",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class RouterAnswer:
    """What the router is to say about T tokens: logits [T, E], and its top-k of them as index and weights [T, K]."""

    logits_TE: Tensor
    weight_TK: Tensor
    index_TK: Tensor

    def to(self, device: torch.device) -> RouterAnswer:
        """Return the same on `device`."""
        return RouterAnswer(
            logits_TE=self.logits_TE.to(device),
            weight_TK=self.weight_TK.to(device),
            index_TK=self.index_TK.to(device),
        )


class OneLayer(nn.Module):
    """One MoE block as a model that `evenmoe.attach` takes: `model(inputs_embeds=[B, S, H])` gives [B, S, H].

    The block's router runs as it is; where `answer` is set, it replaces what the router said. The experts' weights are
    views of one expert until `fill_experts` gives each its own, so that a layer too large for one process can be built
    and then cut into shards.
    """

    def __init__(self, config: PreTrainedConfig, block: nn.Module) -> None:
        super().__init__()
        self.config, self.block = config, block
        self.answer: RouterAnswer | None = None
        self.router_module.register_forward_hook(self._replace_answer)

    @property
    def router_module(self) -> nn.Module:
        """The block's router."""
        return self.block.get_submodule("gate")

    @property
    def experts_module(self) -> nn.Module:
        """The block's routed experts."""
        return self.block.get_submodule("experts")

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        """Run the block."""
        output: Tensor = self.block(inputs_embeds)
        return output

    def answer_for(self, routing: DrawnRouting, tokens: slice = slice(None)) -> RouterAnswer:
        """Return drawn routing of some of its tokens as this router would say it, weights made by its own rule."""
        rule = stated_rule(self.block.__class__.__module__.split(".")[2], self.router_module, self.block)
        assert rule is not None
        logits_TE = torch.from_numpy(routing.logits_TE[tokens])
        index_TK = torch.from_numpy(routing.index_TK[tokens])
        score_TK = rule.scores(logits_TE).gather(1, index_TK)
        if rule.renormalise == "top-k":
            score_TK = score_TK / score_TK.sum(1, keepdim=True)
        return RouterAnswer(logits_TE=logits_TE, weight_TK=score_TK, index_TK=index_TK)

    def fill_experts(self, seed: int) -> None:
        """Give each expert that is here weights of its own, from the seed."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in list(self.experts_module.named_parameters(recurse=False)):
            filled = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            setattr(self.experts_module, name, nn.Parameter(_random(filled, generator), requires_grad=False))

    def share_experts(self, other: OneLayer) -> None:
        """Use the weights of another shard's first experts as these experts' own; it must have as many or more."""
        for name, parameter in list(self.experts_module.named_parameters(recurse=False)):
            shared = other.experts_module.get_parameter(name)[: parameter.shape[0]]
            setattr(self.experts_module, name, nn.Parameter(shared, requires_grad=False))

    def _replace_answer(self, _router: nn.Module, _args: Any, output: Any) -> Any:
        if self.answer is None:
            return None
        return self.answer.logits_TE, self.answer.weight_TK.to(output[1].dtype), self.answer.index_TK


def build_layer(
    shape: LayerShape, *, dtype: torch.dtype, implementation: Implementation = "eager", seed: int = 0
) -> OneLayer:
    """Build the layer from transformers' own classes: of the shape's architecture where it is one of OLMoE,
    DeepSeek-V2, Qwen2-MoE or Mixtral, else like Qwen2-MoE where it has shared experts and like OLMoE where not.

    Takes the memory of one expert: see `OneLayer.fill_experts`.
    """
    config, block_class = _config_and_block(_architecture(shape), shape)
    config._experts_implementation = implementation
    with torch.device("meta"):
        block = block_class(config)
    layer = OneLayer(config, block.to(dtype).eval())
    generator = torch.Generator().manual_seed(seed)
    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            is_expert = module is layer.experts_module
            own_shape = (1, *parameter.shape[1:]) if is_expert else parameter.shape
            real = _random(torch.empty(own_shape, dtype=parameter.dtype), generator)
            setattr(module, name, nn.Parameter(real.expand(parameter.shape), requires_grad=False))
    return layer


def random_hidden(num_tokens: int, shape: LayerShape, dtype: torch.dtype, seed: int) -> Tensor:
    """Return [1, T, H]: normal hidden states, as one row of requests."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, num_tokens, shape.hidden, generator=generator).to(dtype)


def fastest_dtype(shape: LayerShape) -> torch.dtype:
    """Return bfloat16 where a matrix product of the shape's size is faster in it here than in float32, else float32.

    On a GPU it always is; a CPU without bfloat16 instructions is several times slower.
    """
    if torch.cuda.is_available():
        return torch.bfloat16
    size = min(shape.hidden, 1024)
    return min((torch.float32, torch.bfloat16), key=lambda dtype: _product_seconds(size, dtype))


def fastest_implementation() -> Implementation:
    """Return transformers' fastest way to run experts: grouped products on a GPU, its loop over experts on a CPU."""
    return "grouped_mm" if torch.cuda.is_available() else "eager"


def _product_seconds(size: int, dtype: torch.dtype) -> float:
    left = torch.ones(64, size, dtype=dtype)
    right = torch.ones(size, size, dtype=dtype)
    best = math.inf
    for _ in range(3):
        before = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - before)
    return best


def _random(tensor: Tensor, generator: torch.Generator) -> Tensor:
    bound = (3.0 / tensor.shape[-1]) ** 0.5  # outputs as large as inputs
    return tensor.uniform_(-bound, bound, generator=generator)


def _architecture(shape: LayerShape) -> str:
    name = _ARCHITECTURES.get(shape.name, "qwen2_moe" if shape.shared_intermediate else "olmoe")
    if name == "deepseek_v2" and (
        shape.shared_intermediate % shape.intermediate or not shape.shared_intermediate
    ):
        return "qwen2_moe" if shape.shared_intermediate else "olmoe"
    return name


def _config_and_block(
    architecture: str, shape: LayerShape
) -> tuple[PreTrainedConfig, Callable[[Any], nn.Module]]:
    """Return transformers' configuration with the shape's sizes, and the class of its MoE block."""
    common = {
        "hidden_size": shape.hidden,
        "num_experts_per_tok": shape.top_k,
        "num_attention_heads": 1,  # there is no attention here, and any hidden size must divide by them
    }
    if architecture == "olmoe":
        sizes = {"intermediate_size": shape.intermediate, "num_experts": shape.num_experts}
        return OlmoeConfig(**common, **sizes), OlmoeSparseMoeBlock
    if architecture == "mixtral":
        sizes = {"intermediate_size": shape.intermediate, "num_local_experts": shape.num_experts}
        return MixtralConfig(**common, **sizes), MixtralSparseMoeBlock
    if architecture == "qwen2_moe":
        sizes = {
            "moe_intermediate_size": shape.intermediate,
            "num_experts": shape.num_experts,
            "shared_expert_intermediate_size": shape.shared_intermediate,
        }
        return Qwen2MoeConfig(**common, **sizes), Qwen2MoeSparseMoeBlock
    sizes = {
        "moe_intermediate_size": shape.intermediate,
        "n_routed_experts": shape.num_experts,
        "n_shared_experts": shape.shared_intermediate // shape.intermediate,
    }
    # As in DeepSeek-V2-Lite; larger ones limit a token to some groups of experts.
    rule = {"topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0}
    return DeepseekV2Config(**common, **sizes, **rule), DeepseekV2Moe


def torch_dtype(name: str, shape: LayerShape) -> torch.dtype:
    """Return the dtype of a name; "auto" is `fastest_dtype`. Raises ConfigError for another name."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return fastest_dtype(shape)
    if name not in named:
        raise ConfigError("dtype", name, "one of auto, " + ", ".join(named))
    return named[name]
