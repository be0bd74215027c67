"""LayerShape: sizes of the paper's models, configurations of many architectures, and what is refused."""

from __future__ import annotations

import json

import pytest
import transformers

from evenmoe.costs import SHAPES, LayerShape, read_shape
from evenmoe.errors import ConfigError, FileFormatError

MINIMAL = {"hidden": 8, "intermediate": 4, "num_experts": 6, "top_k": 2}


def write(tmp_path, body):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(body))
    return path


def test_sizes_by_hand():
    olmoe = SHAPES["olmoe"]
    assert olmoe.expert_bytes("float32") == 3 * 2048 * 1024 * 4 == 25_165_824
    assert olmoe.flops_per_pair == 6 * 2048 * 1024
    assert olmoe.pair_bytes("bfloat16") == 4096
    assert [shape.num_experts // shape.num_devices for shape in SHAPES.values()] == [8, 8, 10, 1]


def test_contiguous_shares_differ_by_one_at_most():
    holds = SHAPES["qwen1.5-moe"].contiguous_holds(7)
    assert holds.sum(0).tolist() == [1] * 60
    assert holds.sum(1).tolist() == [9, 9, 9, 9, 8, 8, 8]
    with pytest.raises(ConfigError, match="num_devices = 61"):
        SHAPES["qwen1.5-moe"].contiguous_holds(61)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (
            transformers.OlmoeConfig(num_experts=64, intermediate_size=1024),
            (2048, 1024, 64, 8, 0, 16, 8),
        ),
        (
            transformers.Qwen2MoeConfig(
                num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408,
                shared_expert_intermediate_size=5632, num_hidden_layers=24, decoder_sparse_step=1,
            ),
            (2048, 1408, 60, 4, 5632, 24, 6),
        ),
        (
            transformers.Qwen3MoeConfig(mlp_only_layers=[0, 3], num_hidden_layers=12, decoder_sparse_step=2),
            (2048, 768, 128, 8, 0, 5, 8),
        ),
        (transformers.MixtralConfig(), (4096, 14336, 8, 2, 0, 32, 8)),
        (
            transformers.DeepseekV2Config(
                hidden_size=2048, moe_intermediate_size=1408, n_routed_experts=64, num_experts_per_tok=6,
                n_shared_experts=2, num_hidden_layers=27, first_k_dense_replace=1,
            ),
            (2048, 1408, 64, 6, 2816, 26, 8),
        ),
        (transformers.DeepseekV3Config(), (7168, 2048, 256, 8, 2048, 58, 8)),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)  # fmt: skip
def test_reads_configurations_of_transformers(tmp_path, config, sizes):
    config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path / "config.json")
    assert shape.name == config.model_type
    found = (shape.hidden, shape.intermediate, shape.num_experts, shape.top_k, shape.shared_intermediate)
    assert (*found, shape.num_layers, shape.num_devices) == sizes
    assert read_shape(tmp_path) == shape


def test_follows_the_text_part_of_a_vision_model(tmp_path):
    text = {"hidden_size": 8, "moe_intermediate_size": 4, "num_experts": 6, "num_experts_per_tok": 2}
    path = write(
        tmp_path, {"text_config": text | {"num_hidden_layers": 3}, "vision_config": {"hidden_size": 99}}
    )
    assert read_shape(path).hidden == 8


def test_own_file_round_trip(tmp_path):
    shape = SHAPES["deepseek-v2-lite"]
    assert read_shape(write(tmp_path, shape.describe())) == shape
    assert read_shape(write(tmp_path, MINIMAL)).name == "config"


@pytest.mark.parametrize(
    ("body", "error", "named"),
    [
        ({**MINIMAL, "expert": 1}, FileFormatError, "'expert'"),
        ({"hidden": 8}, FileFormatError, "'intermediate'"),
        ({**MINIMAL, "top_k": 7}, ConfigError, "top_k = 7"),
        ({**MINIMAL, "hidden": "8"}, ConfigError, "hidden = '8'"),
        ({**MINIMAL, "intermediate": True}, ConfigError, "intermediate = True"),
        ({"hidden_size": 8}, FileFormatError, "moe_intermediate_size"),
        ({"hidden_size": 8, "intermediate_size": 4}, FileFormatError, "n_routed_experts"),
        ({"hidden_size": 0}, ConfigError, "hidden_size"),
        ({"hidden_size": 8, "intermediate_size": 4, "num_experts": [8, 8]}, ConfigError, r"\[8, 8\]"),
        ({"hidden_size": 8, "intermediate_size": 4, "num_experts": 8, "num_experts_per_tok": 2,
          "num_hidden_layers": 2, "n_shared_experts": "two"}, ConfigError, "n_shared_experts"),
        ({"hidden_size": 8, "intermediate_size": 4, "num_experts": 8, "num_experts_per_tok": 2,
          "num_hidden_layers": 2, "first_k_dense_replace": 2}, FileFormatError, "none of its 2 layers"),
        ([], FileFormatError, "no JSON object"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_layer(tmp_path, body, error, named):
    with pytest.raises(error, match=named):
        read_shape(write(tmp_path, body))


def test_refuses_unknown_names_and_files(tmp_path):
    with pytest.raises(ConfigError, match=r"olmoe, deepseek-v2-lite, qwen1\.5-moe, mixtral"):
        read_shape("gpt2")
    with pytest.raises(FileNotFoundError):
        read_shape(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(FileFormatError, match="not JSON"):
        read_shape(tmp_path / "broken.json")


def test_refuses_an_unknown_dtype():
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        LayerShape(name="x", **MINIMAL).pair_bytes("float64")
