"""What cannot act in an engine as it is configured is refused, by the name of vLLM's own setting."""

from types import SimpleNamespace as Namespace

import pytest

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.routing import make_policy
from evenmoe.serving.config import RoutingConfig
from evenmoe.serving.vllm.checks import check_engine, check_experts, check_layers, check_router, never_acts
from evenmoe.serving.vllm.settings import settings_of


def engine_config(**changed):
    """vLLM's configuration as its defaults on a CPU are, with fields changed by "part.field"."""
    parts = {
        "parallel_config": Namespace(
            pipeline_parallel_size=1,
            data_parallel_size=1,
            enable_eplb=False,
            enable_dbo=False,
            use_sequence_parallel_moe=False,
        ),
        "model_config": Namespace(runner_type="generate"),
        "compilation_config": Namespace(cudagraph_mode=Namespace(name="NONE")),
        "device_config": Namespace(device_type="cpu"),
        "cache_config": Namespace(enable_prefix_caching=True),
        "scheduler_config": Namespace(enable_chunked_prefill=True),
        "speculative_config": None,
        "lora_config": None,
    }
    for name, value in changed.items():
        part, _, field = name.partition("__")
        if field:
            setattr(parts[part], field, value)
        else:
            parts[part] = value
    return Namespace(**parts)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"parallel_config__pipeline_parallel_size": 2}, "pipeline_parallel_size = 2"),
        ({"parallel_config__data_parallel_size": 2}, "data_parallel_size = 2"),
        ({"parallel_config__enable_eplb": True}, "enable_eplb"),
        ({"parallel_config__enable_dbo": True}, "enable_dbo"),
        ({"parallel_config__use_sequence_parallel_moe": True}, "use_sequence_parallel_moe"),
        ({"speculative_config": Namespace(method="ngram")}, "speculative_config"),
        ({"lora_config": Namespace(max_loras=1)}, "enable_lora"),
        ({"model_config__runner_type": "pooling"}, "runner = 'pooling'"),
        (
            {
                "device_config__device_type": "cuda",
                "compilation_config__cudagraph_mode": Namespace(name="FULL_AND_PIECEWISE"),
            },
            "cudagraph_mode = 'FULL_AND_PIECEWISE'.*enforce-eager",
        ),
    ],
)
def test_engines_that_evenmoe_cannot_serve(changed, named):
    check_engine(engine_config(), RoutingConfig())
    with pytest.raises(ConfigError, match=named):
        check_engine(engine_config(**changed), RoutingConfig())


@pytest.mark.parametrize("isolation", ["request", "strict"])
def test_isolation_needs_prompts_in_one_piece_and_computed_for_their_request(isolation):
    def routing(phases, gamma=1.0):
        return RoutingConfig(gamma=gamma, phases=phases, options={"isolation": isolation})

    neither = {
        "cache_config__enable_prefix_caching": False,
        "scheduler_config__enable_chunked_prefill": False,
    }
    for phases in ("prefill", "both"):
        check_engine(engine_config(**neither), routing(phases))
        with pytest.raises(ConfigError, match="--no-enable-prefix-caching"):
            check_engine(engine_config(), routing(phases))
        with pytest.raises(ConfigError, match="--no-enable-chunked-prefill"):
            check_engine(engine_config(cache_config__enable_prefix_caching=False), routing(phases))
    check_engine(engine_config(), routing("decode"))
    check_engine(engine_config(), routing("both", float("inf")))
    check_engine(engine_config(), RoutingConfig(gamma=1.0, phases="both"))


def test_layers_that_are_not_hooked():
    check_layers("m", {"a": "EvenMoERunner", "b": "EvenMoERunner"}, ("a", "b"))
    with pytest.raises(UnsupportedModelError, match="m has no mixture-of-experts layer"):
        check_layers("m", {}, ())
    with pytest.raises(
        UnsupportedModelError, match=r"1 of the 2 MoE layers of m .* b by TransformersMoERunner"
    ):
        check_layers("m", {"a": "EvenMoERunner", "b": "TransformersMoERunner"}, ("a",))
    check_experts("a", "CompactedMoEMethod", True)
    with pytest.raises(UnsupportedModelError, match="a: its experts are run by Fp8MoEMethod"):
        check_experts("a", "Fp8MoEMethod", False)
    check_router("a", Namespace(top_k=2))
    with pytest.raises(UnsupportedModelError, match="experts that do nothing"):
        check_router("a", Namespace(zero_expert_output=None))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("baseline", {}, True),
        ("token_drop", {"gamma": float("inf")}, True),
        ("token_drop", {"gamma": 8.0}, False),
        ("fill", {"gamma": float("inf")}, True),
        ("expert_drop", {}, False),
        ("threshold_drop", {"threshold": 0.1}, False),
    ],
)
def test_policies_that_never_act(name, options, expected):
    assert never_acts(make_policy(name, **options)) == expected


def test_where_the_configuration_comes_from(tmp_path):
    assert settings_of(Namespace(additional_config={})) is None
    assert settings_of(Namespace(additional_config={"gamma": 2})) is None
    assert settings_of(Namespace()) is None
    assert settings_of(Namespace(additional_config={"evenmoe": {}})).routing == RoutingConfig()
    path = tmp_path / "evenmoe.toml"
    path.write_text("[routing]\ngamma = 1.5\n", encoding="utf-8")
    assert settings_of(Namespace(additional_config={"evenmoe": str(path)})).routing.gamma == 1.5
    for wrong in (3, None, ["routing"]):
        with pytest.raises(ConfigError, match="the path of a TOML file"):
            settings_of(Namespace(additional_config={"evenmoe": wrong}))
