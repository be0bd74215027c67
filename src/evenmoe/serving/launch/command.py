"""The command line and the environment that an engine is started with."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evenmoe.errors import ConfigError
from evenmoe.serving.launch.checkpoint import Served
from evenmoe.serving.launch.options import ServeOptions
from evenmoe.serving.launch.traps import around_traps, is_vllm_for_cpu
from evenmoe.serving.launch.vllm_models import server_module

SCHEDULER = "evenmoe.serving.vllm.ExpertAwareScheduler"
CLIENT_LOADS = "evenmoe.serving.vllm.client_loads:ClientLoads"
DRAINING = "evenmoe.serving.launch.draining.Draining"
CLOSING_S = 10
"""Seconds that vLLM gives its processes to close, once no request is left."""
KV_CACHE_GIB = 4
"""The most of a CPU's memory that the key-value cache takes unless told otherwise."""
_OURS = {
    "--model": "the MODEL argument",
    "--served-model-name": "the MODEL argument",
    "--host": "--host",
    "--port": "--port",
    "--api-key": "--api-key",
    "--dtype": "--dtype",
    "--max-model-len": "--max-model-len",
    "--max-num-seqs": "--max-num-seqs",
    "--tensor-parallel-size": "--tensor-parallel-size",
    "-tp": "--tensor-parallel-size",
    "--enable-expert-parallel": "--expert-parallel",
    "-ep": "--expert-parallel",
    "--scheduler-cls": "--scheduler",
    "--additional-config": "--config and the flags of routing and scheduling",
    "--shutdown-timeout": "--shutdown-timeout",
    "--uds": "--host and --port",
    "--ssl-keyfile": "a reverse proxy for TLS",
    "--ssl-certfile": "a reverse proxy for TLS",
}
"""vLLM's arguments that we set ourselves, and how to say them to us."""


@dataclass(frozen=True, kw_only=True)
class EngineCommand:
    """A command line, and what its environment has besides ours."""

    arguments: tuple[str, ...]
    added: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names in `added` whose values are not shown."""

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Everything the engine's processes find in their environment."""
        return {**ours, **self.added}

    def __str__(self) -> str:
        """As one would type it, secrets left out."""
        pairs = (
            f"{name}={'...' if name in self.secrets else shlex.quote(value)}"
            for name, value in sorted(self.added.items())
        )
        return " ".join([*pairs, shlex.join(self.arguments)])


def engine_command(options: ServeOptions, served: Served, port: int, scratch: Path) -> EngineCommand:
    """How the engine is started. `scratch` is a folder that lives as long as it does.

    Raises ConfigError for arguments after `--` that say what a flag of ours says.
    """
    if options.engine == "transformers":
        return _transformers(options, served, port, scratch)
    return _vllm(options, served, port)


def _vllm(options: ServeOptions, served: Served, port: int) -> EngineCommand:
    arguments = [
        *(sys.executable, "-m", server_module()),
        *("--model", served.path, "--served-model-name", served.name),
        *("--host", options.host, "--port", str(port), "--dtype", options.dtype),
        *("--additional-config", _additional_config(options)),
        *("--middleware", DRAINING, "--shutdown-timeout", str(CLOSING_S)),
    ]
    if options.schedules:
        arguments += ["--scheduler-cls", SCHEDULER]
        if options.serving.scheduling.predictor == "client":
            arguments += ["--logits-processors", CLIENT_LOADS]
    if options.serving.routing.isolates_prompts:
        arguments += ["--no-enable-prefix-caching", "--no-enable-chunked-prefill"]
    if not is_vllm_for_cpu():
        arguments.append(
            "-cc.cudagraph_mode=NONE"
        )  # a recorded graph would keep the same pairs in every step
    if options.max_model_len is not None:
        arguments += ["--max-model-len", str(options.max_model_len)]
    if options.max_num_seqs is not None:
        arguments += ["--max-num-seqs", str(options.max_num_seqs)]
    if options.tensor_parallel_size > 1:
        arguments += ["--tensor-parallel-size", str(options.tensor_parallel_size)]
    if options.expert_parallel:
        arguments.append("--enable-expert-parallel")
    arguments += _passed_on(options.engine_arguments)
    added = _changes(around_traps(os.environ), os.environ)
    if options.api_key is not None:
        added["VLLM_API_KEY"] = options.api_key
    if is_vllm_for_cpu():
        added |= _cpu_environment(options)
    return EngineCommand(arguments=tuple(arguments), added=added, secrets=("VLLM_API_KEY",))


def _additional_config(options: ServeOptions) -> str:
    """Everything that is not a default; the parts that were asked for are named even if they are."""
    body = options.serving.model_dump(mode="json", exclude_defaults=True)
    for part in options.serving.model_fields_set:
        body.setdefault(part, {})
    return json.dumps({"evenmoe": body})


def _passed_on(arguments: tuple[str, ...]) -> list[str]:
    for argument in arguments:
        name = argument.partition("=")[0].partition(".")[0].replace("_", "-")
        for ours, instead in _OURS.items():
            # Abbreviations too, which vLLM's parser completes; --a.b=c sets a part of the JSON object --a.
            if name == ours or (len(name) > len("--") and name.startswith("--") and ours.startswith(name)):
                raise ConfigError("argument after --", argument, f"left to evenmoe serve: use {instead}")
    return list(arguments)


def _cpu_environment(options: ServeOptions) -> dict[str, str]:
    """vLLM on a CPU takes nearly all memory for its cache, and cannot place several ranks on one node by itself."""
    added: dict[str, str] = {}
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ and not any(
        argument.startswith(("--kv-cache-memory-bytes", "--gpu-memory-utilization"))
        for argument in options.engine_arguments
    ):
        added["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib(available_bytes()))
    if options.tensor_parallel_size > 1 and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        added["VLLM_CPU_OMP_THREADS_BIND"] = thread_binding(_cpus(), options.tensor_parallel_size)
    return added


def kv_cache_gib(available: int | None) -> int:
    """Whole GiB for the key-value cache: a quarter of the memory that is free, from 1 to KV_CACHE_GIB."""
    if available is None:
        return 1
    return min(max(available // 4 // 2**30, 1), KV_CACHE_GIB)


def thread_binding(cpus: list[int], num_ranks: int) -> str:
    """Equal shares of CPUs for the ranks, as vLLM writes them: "0,1|2,3". Raises ConfigError for too few."""
    if num_ranks > len(cpus):
        raise ConfigError("tensor-parallel-size", num_ranks, f"at most the {len(cpus)} CPUs of this process")
    share = len(cpus) // num_ranks
    shares = (cpus[rank * share : (rank + 1) * share] for rank in range(num_ranks))
    return "|".join(",".join(map(str, part)) for part in shares)


def available_bytes() -> int | None:
    """Memory that new processes can have, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def _cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _changes(after: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in after.items() if before.get(name) != value}


def _transformers(options: ServeOptions, served: Served, port: int, scratch: Path) -> EngineCommand:
    body = {
        "model": served.path,
        "served_name": served.name,
        "serving": json.loads(options.serving.model_dump_json(exclude_unset=True)),
        "schedules": options.schedules,
        "host": options.host,
        "port": port,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "shutdown_timeout_s": options.shutdown_timeout_s,
    }
    file = scratch / "options.json"
    file.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return EngineCommand(
        arguments=(sys.executable, "-m", "evenmoe.serving.transformers.server", "--options", str(file)),
        added={} if options.api_key is None else {"EVENMOE_API_KEY": options.api_key},
        secrets=("EVENMOE_API_KEY",),
    )
