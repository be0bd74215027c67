"""The entry point `vllm.general_plugins`: vLLM calls it in each of its processes."""

from __future__ import annotations

from importlib.util import find_spec


def register() -> None:
    """Give vLLM our runner and experts. Without a configuration under "evenmoe" they do what vLLM's own do."""
    if find_spec("vllm") is None:
        return
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    from evenmoe.serving.vllm.layers import CompactedMoEMethod, EvenMoERunner

    if issubclass(MoERunner, EvenMoERunner):
        return
    MoERunner.register_oot(EvenMoERunner)
    UnquantizedFusedMoEMethod.register_oot(CompactedMoEMethod)
