"""What `evenmoe serve` was asked for: files, flags over files, and everything that is refused."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.routing import Fill, TokenDrop
from evenmoe.serving.config import ServingConfig
from evenmoe.serving.launch.options import ServeOptions, ServingFlags, resolve_serving

TOML = """
[routing]
policy = "token_drop"
gamma = 2.0
options = {keep = "random"}
num_devices = 4

[scheduling]
strategy = "fcfs"
window_size = 9
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "serving.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_nothing_asked_for_is_nothing_limited_and_nothing_scheduled():
    serving = resolve_serving(None, ServingFlags())
    assert serving == ServingConfig()
    assert serving.routing.build() == TokenDrop(gamma=math.inf)
    assert not ServeOptions(model="m", engine="vllm", serving=serving).schedules


def test_a_file_is_taken_as_it_is(file):
    serving = resolve_serving(file, ServingFlags())
    assert serving.routing.build() == TokenDrop(gamma=2.0, keep="random")
    assert (serving.scheduling.strategy, serving.scheduling.window_size) == ("fcfs", 9)
    assert ServeOptions(model="m", engine="vllm", serving=serving).schedules


def test_a_scheduling_table_alone_asks_for_a_scheduler(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[scheduling]\nstrategy = 'random'\n", encoding="utf-8")
    assert ServeOptions(model="m", engine="vllm", serving=resolve_serving(path, ServingFlags())).schedules


def test_flags_go_over_the_file(file):
    serving = resolve_serving(file, ServingFlags(gamma=1.25, devices=2, scheduler="random", seed=7))
    assert serving.routing.build() == TokenDrop(gamma=1.25, keep="random")
    assert (serving.routing.num_devices, serving.routing.seed) == (2, 7)
    assert (serving.scheduling.strategy, serving.scheduling.window_size) == ("random", 9)
    assert serving.scheduling.seed == 7


def test_another_policy_leaves_the_files_options_of_its_policy_behind(file):
    serving = resolve_serving(file, ServingFlags(policy="fill:scope=global"))
    assert serving.routing.build() == Fill(gamma=2.0, scope="global")
    assert resolve_serving(file, ServingFlags(policy="baseline")).routing.policy == "baseline"


def test_another_strategy_leaves_the_files_options_of_its_strategy_behind(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[scheduling]\npredictor = 'client'\noptions = {min_gain = 0.5}\n", encoding="utf-8")
    assert resolve_serving(path, ServingFlags(scheduler="auto")).scheduling.options == {"min_gain": 0.5}
    assert resolve_serving(path, ServingFlags(scheduler="peak_excess")).scheduling.options == {}


def test_a_prior_makes_the_predictor(tmp_path):
    prior = tmp_path / "prior.npz"
    serving = resolve_serving(None, ServingFlags(scheduler="auto", prior=prior))
    assert (serving.scheduling.predictor, serving.scheduling.prior) == ("token-prior", str(prior))


@given(gamma=st.one_of(st.floats(0.01, 100), st.just(math.inf)), devices=st.integers(1, 64))
def test_any_allowed_flag_arrives(gamma, devices):
    routing = resolve_serving(None, ServingFlags(gamma=gamma, devices=devices)).routing
    assert (routing.gamma, routing.num_devices) == (gamma, devices)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"policy": "drop"}, r"'drop'.*token_drop"),
        ({"policy": "token_drop:keap=random"}, r"keap=random.*keep"),
        ({"gamma": 0.0}, r"routing\.gamma = 0\.0 .*greater than 0"),
        ({"gamma": -1.0}, r"routing\.gamma = -1\.0"),
        ({"policy": "baseline", "gamma": 1.5}, r"gamma = 1\.5 .*left out with baseline"),
        ({"phases": "decoding"}, r"routing\.phases = 'decoding'.*prefill"),
        ({"scheduler": "fifo"}, r"scheduling\.strategy = 'fifo'.*fcfs"),
        ({"scheduler": "auto"}, r"scheduler = 'auto' .*--prior FILE.*--predictor client"),
        ({"scheduler": "auto", "predictor": "none"}, r"scheduler = 'auto'"),
        ({"scheduler": "peak_excess"}, r"predictor = 'none' .*token-prior or client"),
        ({"scheduler": "auto", "predictor": "token-prior"}, r"prior = None"),
        ({"scheduler": "auto", "predictor": "oracle"}, r"predictor = 'oracle'"),
        ({"predictor": "client"}, r"scheduler = None .*a strategy"),
        ({"prior": "x.npz"}, r"scheduler = None .*a strategy"),
        (
            {"scheduler": "auto", "prior": "x.npz", "predictor": "client"},
            r"prior = .*left out with --predictor client",
        ),
    ],
)
def test_flags_that_are_not_allowed_are_named(flags, named, tmp_path):
    if "prior" in flags:
        flags = flags | {"prior": tmp_path / flags["prior"]}
    with pytest.raises(ConfigError, match=named):
        resolve_serving(None, ServingFlags(**flags))


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("[routing\n", FileFormatError, "not a TOML file"),
        ("[rooting]\n", ConfigError, r"rooting.*routing, scheduling, metrics"),
        ("[routing]\ngama = 1.5\n", ConfigError, r"routing\.gama"),
        ("[server]\nport = 1\n", ConfigError, r"evenmoe\.server"),
    ],
)
def test_files_that_are_not_allowed_are_named(text, error, named, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=named):
        resolve_serving(path, ServingFlags())


def test_the_example_in_the_guide_is_one(tmp_path):
    guide = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    path = tmp_path / "serving.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", guide, re.DOTALL)[1], encoding="utf-8")
    serving = resolve_serving(path, ServingFlags(gamma=1.25))
    assert serving.routing.isolates_prompts
    assert serving.routing.gamma == 1.25
    assert serving.scheduling.predictor == "token-prior"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        resolve_serving(tmp_path / "none.toml", ServingFlags())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": " "}, "model = ' '"),
        ({"engine": "sglang"}, "engine = 'sglang'.*vllm, transformers"),
        ({"dtype": "int8"}, "dtype = 'int8'.*bfloat16"),
        ({"host": ""}, "host = ''"),
        ({"port": 70000}, "port = 70000.*65535"),
        ({"api_key": " "}, "api-key"),
        ({"max_model_len": 0}, "max-model-len = 0"),
        ({"max_num_seqs": -1}, "max-num-seqs = -1"),
        ({"shutdown_timeout_s": 0.0}, "shutdown-timeout = 0.0"),
        ({"shutdown_timeout_s": math.nan}, "shutdown-timeout = nan"),
        ({"expert_parallel": True}, "expert-parallel = True.*tensor-parallel-size"),
        ({"engine_arguments": ("stray",)}, "argument = 'stray'.*after --"),
        ({"engine": "transformers", "engine_arguments": ("--x",)}, "arguments after --.*only vLLM"),
        ({"engine": "transformers", "tensor_parallel_size": 2}, "tensor-parallel-size = 2.*only vLLM"),
    ],
)
def test_options_that_are_not_allowed_are_named(settings, named):
    with pytest.raises(ConfigError, match=named):
        ServeOptions(**({"model": "m", "engine": "vllm"} | settings))


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
    ],
)
def test_which_hosts_only_this_machine_reaches(host, is_local):
    assert ServeOptions(model="m", engine="vllm", host=host).is_local == is_local
