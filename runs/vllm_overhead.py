"""What evenmoe costs a step of vLLM in which it does not act: stock and configured engines take turns in one process.

    python runs/vllm_overhead.py [--model DIR] [--json FILE]

Needs vLLM in the environment. By default the bundled text model. Times are of whole engine steps of new tokens, CPU
seconds of the process; the least and the median over all rounds are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1")

CONFIGURATIONS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "gamma inf": {},
    "gamma 1.5, prompts": {"routing": {"gamma": 1.5}},
    "gamma 1.5, both": {"routing": {"gamma": 1.5, "phases": "both", "min_tokens": 1}},
}
BATCHES = (1, 8, 32)
ROUNDS = 3
NUM_TOKENS = 26


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a model folder; by default the bundled text model")
    parser.add_argument("--json", type=Path, help="write the times as data")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or _bundled(Path(scratch))
        engines = {name: _engine(folder, evenmoe) for name, evenmoe in CONFIGURATIONS.items()}
        times: dict[str, dict[int, list[float]]] = {name: {num: [] for num in BATCHES} for name in engines}
        for _ in range(ROUNDS):
            for num_requests in BATCHES:
                for name, engine in engines.items():
                    times[name][num_requests] += _decode_steps(engine, num_requests)
    _print(times)
    if given.json is not None:
        given.json.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


def _bundled(scratch: Path) -> str:
    from evenmoe.models.bundled import bundled_path
    from evenmoe.serving.launch.untying import untied

    return str(untied(bundled_path("text"), scratch))


def _engine(folder: str, evenmoe: dict[str, Any] | None) -> Any:
    from vllm import LLM

    return LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_seqs=max(BATCHES),
        kv_cache_memory_bytes=128 << 20,
        enable_prefix_caching=False,
        seed=0,
        additional_config={} if evenmoe is None else {"evenmoe": evenmoe},
    ).llm_engine


def _decode_steps(engine: Any, num_requests: int) -> list[float]:
    """Run requests to their end; return the milliseconds of each step of new tokens alone."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    for number in range(num_requests):
        prompt = {"prompt_token_ids": [10 + (7 * number + place) % 1000 for place in range(16)]}
        engine.add_request(f"{time.monotonic_ns()}-{number}", prompt, sampling)
    times = []
    while engine.has_unfinished_requests():
        start = time.process_time()
        engine.step()
        times.append((time.process_time() - start) * 1000)
    return times[2:]


def _print(times: dict[str, dict[int, list[float]]]) -> None:
    print(f"{'ms per step':20}" + "".join(f"{f'{num} requests':>22}" for num in BATCHES))
    for name, by_batch in times.items():
        shown = [f"{min(ms):.2f} ({statistics.median(ms):.2f})" for ms in by_batch.values()]
        print(f"{name:20}" + "".join(f"{cell:>22}" for cell in shown))


if __name__ == "__main__":
    main()
