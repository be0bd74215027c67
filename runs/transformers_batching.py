"""docs/serving_transformers.md, "Measured": generate_batch of the bundled text model, by order of admission and policy.

A token prior is learned on one half of the held-out text. The other half is cut into prompts, which come all at once,
in bursts of one domain; a row of the table runs them all. Speed is per second of the process's CPU time, the best of
all seeds: one process runs all experts, so a straggler costs it nothing, and only dropped pairs can save anything.

Run: OMP_NUM_THREADS=1 python runs/transformers_batching.py [--seeds 3] [--prompts 192]   (about 4 minutes)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import ContinuousBatchingConfig, GenerationConfig

import evenmoe
from evenmoe.evaluation.prediction import halves
from evenmoe.evaluation.texts import cut_windows, heldout_texts
from evenmoe.models.bundled import bundled_tokenizer
from evenmoe.models.prediction import learn_token_prior
from evenmoe.serving.config import serving_config_of
from evenmoe.serving.transformers import generate_batch

NUM_DEVICES, PROMPT_TOKENS, NEW_TOKENS, AT_ONCE, BURST = 8, 64, 8, 8, 24
SPEED = "new_tokens_per_cpu_s"
GENERATION = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=1)


def batching() -> ContinuousBatchingConfig:
    """Eight requests at once, whose prompts fit into one step."""
    return ContinuousBatchingConfig(
        page_size=16,
        num_blocks=AT_ONCE * 8,
        max_batch_tokens=AT_ONCE * PROMPT_TOKENS,
        max_requests_per_batch=AT_ONCE,
        allow_block_sharing=False,
    )


def bursts(texts: dict[str, str], tokenizer: Any, num_prompts: int, seed: int) -> list[list[int]]:
    """Prompts in bursts of one domain each, the domains in random order."""
    rng = np.random.default_rng(seed)
    by_domain: dict[str, list[list[int]]] = {}
    for window in cut_windows(texts, tokenizer, num_windows=num_prompts, window_tokens=PROMPT_TOKENS):
        by_domain.setdefault(window.domain, []).append([int(token) for token in window.ids_S])
    parts = [
        prompts[at : at + BURST] for prompts in by_domain.values() for at in range(0, len(prompts), BURST)
    ]
    return [prompt for part in rng.permutation(len(parts)) for prompt in parts[part]]


def rows(prior: str) -> dict[str, dict[str, Any]]:
    """What is compared, by name."""
    by_load = {"strategy": "greedy_variance", "predictor": "token-prior", "prior": prior}
    limit = {"gamma": 1.5, "num_devices": NUM_DEVICES}
    free = {"num_devices": NUM_DEVICES}
    fcfs = {"strategy": "fcfs"}
    return {
        "fcfs, no limit": {"routing": free, "scheduling": fcfs},
        "by load, no limit": {"routing": free, "scheduling": by_load},
        "fcfs, token drop 1.5": {"routing": limit, "scheduling": fcfs},
        "by load, token drop 1.5": {"routing": limit, "scheduling": by_load},
    }


def measured(model: Any, prompts: list[list[int]], body: dict[str, Any] | None) -> dict[str, float]:
    """One run: new tokens a second, and how even the experts' loads of prompts and new tokens were over the devices."""
    begin = time.process_time()
    if body is None:
        outputs = model.generate_batch(
            prompts, generation_config=GENERATION, continuous_batching_config=batching()
        )
        assert len(outputs) == len(prompts)
        return {SPEED: len(prompts) * NEW_TOKENS / (time.process_time() - begin)}
    generated = generate_batch(
        model,
        prompts,
        serving_config_of(body),
        generation_config=GENERATION,
        continuous_batching_config=batching(),
    )
    seconds, loads, scheduling = time.process_time() - begin, generated.loads, generated.scheduling
    return {
        SPEED: len(prompts) * NEW_TOKENS / seconds,
        "straggler_before": loads.straggler_factor_before,
        "straggler": loads.straggler_factor,
        "drop_rate": loads.drop_rate,
        "scheduling_ms_per_step": 1e3 * scheduling.scheduling_s.sum / sum(scheduling.scheduling_s.counts),
        "prediction_error": scheduling.prediction_error.get("corrected", float("nan")),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    model, tokenizer = evenmoe.load_bundled("text"), bundled_tokenizer("text")
    first, second = halves(heldout_texts())
    learned = cut_windows(first, tokenizer, num_windows=512, window_tokens=PROMPT_TOKENS)
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        prior = str(
            learn_token_prior(model, [window.ids_S for window in learned]).save(Path(folder, "prior.npz"))
        )
        measured(model, bursts(first, tokenizer, 32, 0), None)  # what only the first run pays
        for seed in range(options.seeds):
            prompts = bursts(second, tokenizer, options.prompts, seed)
            for name, body in {"transformers alone": None, **rows(prior)}.items():
                results.setdefault(name, []).append(measured(model, prompts, body))
    columns = list(results["fcfs, no limit"][0])
    print(f"{options.prompts} prompts of {PROMPT_TOKENS} tokens and {NEW_TOKENS} new, {AT_ONCE} at once")
    print("| | " + " | ".join(columns) + " |")
    for name, runs in results.items():
        cells = [[run[column] for run in runs if column in run] for column in columns]
        told = [_told(column, cell) for column, cell in zip(columns, cells, strict=True)]
        print(f"| {name} | " + " | ".join(told) + " |")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _told(column: str, cell: list[float]) -> str:
    """The best of all seeds for speed, which other processes only lower; their mean for everything else."""
    if not cell:
        return ""
    return f"{max(cell):.0f}" if column == SPEED else f"{np.mean(cell):.3f} ± {np.std(cell):.3f}"


if __name__ == "__main__":
    main()
