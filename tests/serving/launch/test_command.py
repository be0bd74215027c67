"""The engine's command line and environment, and the installation's traps."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.serving.config import serving_config_of
from evenmoe.serving.launch import command, engines, traps
from evenmoe.serving.launch.checkpoint import Served
from evenmoe.serving.launch.command import (
    KV_CACHE_GIB,
    engine_command,
    kv_cache_gib,
    thread_binding,
)
from evenmoe.serving.launch.options import ServeOptions, ServingFlags, resolve_serving

SERVED = Served(path="/models/m", name="m")


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch):
    """No trap, a CPU build of vLLM, nothing set in the environment."""
    monkeypatch.setattr(command, "around_traps", dict)
    monkeypatch.setattr(command, "is_vllm_for_cpu", lambda: True)
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)


def built(tmp_path, engine="vllm", **settings):
    return engine_command(ServeOptions(model="m", engine=engine, **settings), SERVED, 8123, tmp_path)


def value(arguments, name):
    return arguments[arguments.index(name) + 1]


def test_vllm_gets_the_model_the_address_and_the_configuration(tmp_path):
    serving = resolve_serving(None, ServingFlags(policy="token_drop:keep=random", gamma=1.5))
    arguments = built(tmp_path, serving=serving, host="0.0.0.0", max_num_seqs=8).arguments
    assert arguments[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    assert (value(arguments, "--model"), value(arguments, "--served-model-name")) == ("/models/m", "m")
    assert (value(arguments, "--host"), value(arguments, "--port")) == ("0.0.0.0", "8123")
    assert value(arguments, "--max-num-seqs") == "8"
    assert "--max-model-len" not in arguments
    given = json.loads(value(arguments, "--additional-config"))
    assert serving_config_of(given["evenmoe"]) == serving
    assert value(arguments, "--middleware") == "evenmoe.serving.launch.draining.Draining"


def test_everything_that_is_named_in_a_command_exists():
    from importlib import import_module

    module, _, name = command.DRAINING.rpartition(".")
    assert hasattr(import_module(module), name)


def test_a_scheduler_is_set_up_only_where_one_was_asked_for(tmp_path):
    assert "--scheduler-cls" not in built(tmp_path).arguments
    serving = resolve_serving(None, ServingFlags(scheduler="fcfs"))
    arguments = built(tmp_path, serving=serving).arguments
    assert value(arguments, "--scheduler-cls") == command.SCHEDULER
    assert "--logits-processors" not in arguments
    assert "scheduling" in json.loads(value(arguments, "--additional-config"))["evenmoe"]
    serving = resolve_serving(None, ServingFlags(scheduler="auto", predictor="client"))
    assert value(built(tmp_path, serving=serving).arguments, "--logits-processors") == command.CLIENT_LOADS


@pytest.mark.parametrize(
    ("flags", "whole"),
    [
        ({"policy": "token_drop:isolation=request", "gamma": 1.5}, True),
        ({"policy": "token_drop:isolation=strict", "gamma": 1.5, "phases": "both"}, True),
        ({"policy": "token_drop:isolation=request", "gamma": 1.5, "phases": "decode"}, False),
        ({"policy": "token_drop:isolation=request"}, False),
        ({"policy": "token_drop", "gamma": 1.5}, False),
        ({"policy": "baseline"}, False),
    ],
)
def test_isolated_prompts_are_computed_whole_and_by_themselves(flags, whole, tmp_path):
    arguments = built(tmp_path, serving=resolve_serving(None, ServingFlags(**flags))).arguments
    assert ("--no-enable-prefix-caching" in arguments) == whole
    assert ("--no-enable-chunked-prefill" in arguments) == whole


def test_a_plain_server_still_counts(tmp_path):
    """Without any flag the plug-in is on: nothing limited, loads counted."""
    assert json.loads(value(built(tmp_path).arguments, "--additional-config")) == {"evenmoe": {}}


def test_arguments_of_vllms_own_come_last(tmp_path):
    passed = ("--enforce-eager", "--max-num-batched-tokens", "1024")
    assert built(tmp_path, engine_arguments=passed).arguments[-3:] == passed


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--port", "use --port"),
        ("--port=9", "use --port"),
        ("--max_model_len", "use --max-model-len"),
        ("--additional-config", "use --config"),
        ("--additional-config.evenmoe.routing.gamma", "use --config"),
        ("--ho=0.0.0.0", "use --host"),
        ("--api-k", "use --api-key"),
        ("-tp", "use --tensor-parallel-size"),
        ("--scheduler-cls=x.Y", "use --scheduler"),
    ],
)
def test_arguments_that_flags_say_are_refused(argument, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        built(tmp_path, engine_arguments=(argument, "1"))


def test_a_key_is_in_the_environment_and_never_shown(tmp_path):
    for engine, name in (("vllm", "VLLM_API_KEY"), ("transformers", "EVENMOE_API_KEY")):
        made = built(tmp_path, engine=engine, api_key="s3cret")
        assert made.environment({})[name] == "s3cret"
        assert "s3cret" not in str(made)
        assert "s3cret" not in " ".join(made.arguments)
        assert "s3cret" not in "".join(file.read_text() for file in tmp_path.iterdir())


def test_transformers_get_the_options_as_a_file(tmp_path):
    serving = resolve_serving(None, ServingFlags(gamma=1.5, scheduler="random"))
    made = built(tmp_path, engine="transformers", serving=serving, max_model_len=64)
    assert made.arguments[1:4] == ("-m", "evenmoe.serving.transformers.server", "--options")
    body = json.loads((tmp_path / "options.json").read_text())
    assert serving_config_of(body.pop("serving")) == serving
    assert body == {
        "model": "/models/m",
        "served_name": "m",
        "schedules": True,
        "host": "127.0.0.1",
        "port": 8123,
        "dtype": "auto",
        "max_model_len": 64,
        "max_num_seqs": None,
        "shutdown_timeout_s": 60.0,
    }


def test_a_cpu_build_gets_a_bounded_cache_unless_told_otherwise(tmp_path, monkeypatch):
    assert 1 <= int(built(tmp_path).added["VLLM_CPU_KVCACHE_SPACE"]) <= KV_CACHE_GIB
    asked = ("--kv-cache-memory-bytes", "1000000000")
    assert "VLLM_CPU_KVCACHE_SPACE" not in built(tmp_path, engine_arguments=asked).added
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    made = built(tmp_path)
    assert not made.added
    assert made.environment(os.environ)["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_a_gpu_build_gets_none(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "is_vllm_for_cpu", lambda: False)
    made = built(tmp_path, tensor_parallel_size=2, expert_parallel=True)
    assert not made.added
    assert "-cc.cudagraph_mode=NONE" in made.arguments


@given(st.one_of(st.none(), st.integers(0, 2**50)))
def test_the_cache_is_a_whole_number_within_bounds(available):
    found = kv_cache_gib(available)
    assert 1 <= found <= KV_CACHE_GIB
    assert found == 1 or available is None or found * 4 * 2**30 <= available


@given(st.integers(1, 64), st.integers(1, 64))
def test_ranks_get_equal_shares_that_do_not_overlap(num_cpus, num_ranks):
    cpus = list(range(100, 100 + num_cpus))
    if num_ranks > num_cpus:
        with pytest.raises(ConfigError, match="tensor-parallel-size"):
            thread_binding(cpus, num_ranks)
        return
    shares = [list(map(int, part.split(","))) for part in thread_binding(cpus, num_ranks).split("|")]
    taken = [cpu for share in shares for cpu in share]
    assert len(shares) == num_ranks
    assert len({len(share) for share in shares}) == 1
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(cpus)


def test_two_ranks_on_two_cpus():
    assert thread_binding([0, 1], 2) == "0|1"
    assert thread_binding([0, 1, 2, 3, 4], 2) == "0,1|2,3"


@pytest.mark.parametrize(
    ("installed", "asked", "chosen"),
    [
        ({"vllm", "transformers", "fastapi", "uvicorn"}, None, "vllm"),
        ({"transformers", "fastapi", "uvicorn"}, None, "transformers"),
        ({"vllm", "transformers", "fastapi", "uvicorn"}, "transformers", "transformers"),
        ({"transformers"}, None, "evenmoe.serve."),
        ({"transformers", "fastapi"}, "transformers", "missing: uvicorn"),
        ({"transformers"}, "vllm", "evenmoe.serve."),
        ({"vllm"}, "sglang", "vllm, transformers"),
    ],
)
def test_the_engine_is_what_is_asked_for_or_there(installed, asked, chosen, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if name in installed else None)
    if chosen in engines.ENGINES:
        assert engines.choose_engine(asked) == chosen
    else:
        with pytest.raises(ConfigError, match=chosen):
            engines.choose_engine(asked)


class TestTraps:
    """Companions of torch from another build, in made-up installations and in real processes."""

    @pytest.fixture
    def versions(self, monkeypatch):
        found = {"torch": "2.13.0+cpu"}
        monkeypatch.setattr(traps, "find_spec", lambda name: object() if name in found else None)
        monkeypatch.setattr(traps, "version", found.__getitem__)
        return found

    def test_without_torchvision_nothing_is_done(self, versions):
        assert traps.around_traps({"A": "1"}) == {"A": "1"}

    def test_with_companions_of_the_same_build_nothing_is_done(self, versions):
        versions |= dict.fromkeys(traps.COMPANIONS, "0.28.0+cpu")
        assert traps.around_traps({}) == {}
        versions |= dict.fromkeys(["torch", *traps.COMPANIONS], "2.13.0")
        assert traps.around_traps({}) == {}

    def test_with_a_torchvision_of_another_build_children_find_ours_first(self, versions):
        versions["torchvision"] = "0.28.0"
        assert traps.around_traps({}) == {"PYTHONPATH": str(traps.CHILDREN), "EVENMOE_HIDDEN": ""}
        assert traps.around_traps({"PYTHONPATH": "/x"})["PYTHONPATH"] == f"{traps.CHILDREN}{os.pathsep}/x"

    def test_sound_and_video_of_another_build_are_hidden(self, versions):
        versions |= {"torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0+cpu"}
        assert traps.around_traps({})["EVENMOE_HIDDEN"] == "torchaudio"

    def test_around_the_traps_twice_is_around_them_once(self, versions):
        versions |= {"torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0"}
        once = traps.around_traps({"PYTHONPATH": "/x"})
        assert once["EVENMOE_HIDDEN"] == "torchaudio,torchcodec"
        assert traps.around_traps(once) == once
        del versions["torchaudio"], versions["torchcodec"]  # as a process sees it that they are hidden from
        assert traps.around_traps(once) == once

    def test_a_hidden_package_is_as_if_it_were_not_installed(self, tmp_path):
        (tmp_path / "torchaudio").mkdir()
        (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('no library')", encoding="utf-8")
        code = "from importlib.util import find_spec as f; print(f('torchaudio'), f('json') is not None)"
        assert run(tmp_path, code, trap=True, hidden="torchaudio,torchcodec").stdout == "None True\n"
        assert "None" not in run(tmp_path, code, trap=True).stdout

    def test_hiding_keeps_the_search_a_method_of_its_class(self, tmp_path):
        code = (
            "from importlib.machinery import PathFinder\n"
            "class Kept: find = PathFinder.find_spec\n"
            "print(Kept().find('torchaudio'), Kept().find('json') is not None)"
        )
        assert run(tmp_path, code, trap=True, hidden="torchaudio").stdout == "None True\n"

    def test_a_broken_torchvision_can_be_imported_by_children_of_children(self, tmp_path):
        make_torchvision(tmp_path, has_ops=False)
        assert run(tmp_path, "import torchvision; print(torchvision.made)", trap=False).returncode == 1
        found = run(tmp_path, IN_A_GRANDCHILD, trap=True)
        assert found.stdout == "whole\n", found.stderr

    def test_a_working_torchvision_is_left_alone(self, tmp_path):
        make_torchvision(tmp_path, has_ops=True)
        code = "import torchvision, torchvision._meta_registrations as m; print(m.described)"
        assert run(tmp_path, code, trap=True).stdout == "True\n"

    def test_the_environments_own_sitecustomize_still_runs(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.customized = True\n", encoding="utf-8")
        found = run(
            tmp_path, "import sys; print(sys.customized, len(sys.path) == len(set(sys.path)))", trap=True
        )
        assert found.stdout == "True True\n", found.stderr

    def test_nothing_else_of_the_folder_can_be_imported(self, tmp_path):
        found = run(tmp_path, f"import sys; print({str(traps.CHILDREN)!r} in sys.path)", trap=True)
        assert found.stdout == "False\n", found.stderr


IN_A_GRANDCHILD = """
import subprocess, sys
print(subprocess.run([sys.executable, "-c", "import torchvision; print(torchvision.made)"],
                     capture_output=True, text=True, check=True).stdout, end="")
"""


def make_torchvision(folder, has_ops):
    """A package that is laid out as torchvision is, and fails as it does where its operators do not load."""
    package = folder / "torchvision"
    package.mkdir()
    described = "described = True\nfrom torchvision.extension import _has_ops\nassert _has_ops(), 'no nms'\n"
    (package / "extension.py").write_text(f"def _has_ops():\n    return {has_ops}\n", encoding="utf-8")
    (package / "_meta_registrations.py").write_text(described, encoding="utf-8")
    (package / "__init__.py").write_text(
        "from torchvision import extension, _meta_registrations\nmade = 'whole'\n", encoding="utf-8"
    )


def run(folder, code, trap, hidden=""):
    path = [str(traps.CHILDREN)] * trap + [str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "EVENMOE_HIDDEN": hidden}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
