"""What evenmoe cannot do stops the start of vLLM, with an error that says what and why."""

import pytest

pytest.importorskip("vllm")
pytestmark = pytest.mark.serve

from evenmoe.errors import ConfigError, FileFormatError, UnsupportedModelError  # noqa: E402
from tests.serve.in_process import answers, llm  # noqa: E402


@pytest.mark.parametrize(
    ("evenmoe", "error", "named"),
    [
        ({"rooting": {}}, ConfigError, r"evenmoe\.rooting"),
        ({"routing": {"gama": 1.0}}, ConfigError, r"evenmoe\.routing\.gama"),
        ({"routing": {"gamma": "1"}}, ConfigError, r"evenmoe\.routing\.gamma = '1'"),
        (["routing"], ConfigError, "the path of a TOML file"),
        ("none.toml", FileNotFoundError, r"none\.toml"),
        ({"routing": {"num_devices": 9}}, ConfigError, "at most the 8 experts"),
        ({"routing": {"policy": "macs", "gamma": 1.0, "options": {"rho": 0}}}, ConfigError, "image tokens"),
        (
            {"routing": {"gamma": 1.0, "options": {"isolation": "strict"}}},
            ConfigError,
            "no-enable-prefix-caching",
        ),
    ],
)
def test_a_configuration_that_cannot_act(tiny_folder, evenmoe, error, named):
    with pytest.raises(error, match=named), llm(tiny_folder("olmoe"), evenmoe, enable_prefix_caching=True):
        pass


def test_a_file_that_is_none(tiny_folder, tmp_path):
    path = tmp_path / "evenmoe.toml"
    path.write_text("[routing\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="not a TOML file"), llm(tiny_folder("olmoe"), str(path)):
        pass
    path.write_text("[routing]\ngamma = 1.5\n", encoding="utf-8")
    with llm(tiny_folder("olmoe"), str(path)) as engine:
        assert len(answers(engine, [[20, 30, 40]])[0]) == 8


def test_a_model_without_experts(tiny_folder, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
    config = LlamaConfig(num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no mixture-of-experts layer"), llm(tmp_path, {}):
        pass
    with llm(tmp_path) as engine:
        assert len(answers(engine, [[20, 30, 40]])[0]) == 8


def test_layers_with_a_runner_of_their_own(tiny_folder, monkeypatch):
    from functools import partial

    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
    from vllm.model_executor.models import olmoe

    class OwnRunner(MoERunner):
        pass

    monkeypatch.setattr(olmoe, "FusedMoEFactory", partial(olmoe.FusedMoEFactory, runner_cls=OwnRunner))
    with pytest.raises(UnsupportedModelError, match=r"2 of the 2 MoE layers .* by OwnRunner"):
        start(tiny_folder("olmoe"), {})


def start(folder, evenmoe, **options):
    with llm(folder, evenmoe, **options):
        pass
