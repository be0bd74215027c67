"""A model that transformers itself shares out over ranks works under attach; sharing it out once more is refused."""

import importlib.util

import pytest

from evenmoe.models.tiny import tiny_model
from evenmoe.parallel import launch
from tests.parallel.transformers_workers import under_their_parallelism


def has_interface():
    """Whether this transformers has the expert parallelism that `EPImplementationInterface` names."""
    if importlib.util.find_spec("transformers.distributed.expert_parallel") is None:
        return False
    module = importlib.import_module("transformers.distributed.expert_parallel")
    return hasattr(module, "EPImplementationInterface")


@pytest.mark.skipif(not has_interface(), reason="this transformers has no EPImplementationInterface")
def test_attach_works_above_the_expert_parallelism_of_transformers(tmp_path):
    tiny_model("qwen3_moe").save_pretrained(tmp_path)
    settings = [
        {"tp_size": 2},
        {"fsdp_size": 2, "ep_implementation": "all_to_all"},
    ]
    results = launch(under_their_parallelism, num_ranks=2, args=(str(tmp_path), "qwen3_moe", settings))
    for found in results:
        for options, result in zip(settings, found, strict=True):
            assert result["difference"] < 1e-5, options
            assert result["kept"] == result["kept_alone"], options
            assert result["drop_rate"] > 0
            assert "cannot be shared out" in result["refusal"]
