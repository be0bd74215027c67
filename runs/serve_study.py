"""docs/serving_study.md: a server under bursty domain traffic, first come first served against expert-aware
scheduling, routing off and on.

Each cell, a strategy and a policy, is a server of its own, and all of them run beside each other, of which only one is
asked at a time. In a round each cell serves the same requests, at one load and of one seed, one after the other in an
order that differs from round to round, so that a machine that drifts does not favour one. What is finished is not run
again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from serving_server import program, served

from evenmoe.cli.load_tables import comparison_markdown
from evenmoe.evaluation.prediction import halves
from evenmoe.serving.load import heldout_texts, prompts_of_texts
from evenmoe.serving.load.comparison import compare_runs, read_run
from evenmoe.simulation.workloads.arrivals import Bursty, stream

MODEL = "bundled:text"
ENGINE_ARGUMENTS = ("--enforce-eager", "--max-num-batched-tokens", "1024", "--no-enable-prefix-caching")
PROMPT_WORDS = 64
MAX_TOKENS = 16
WARM_UP = 24


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is run, and where results go."""

    out: Path
    strategies: tuple[str, ...]
    policies: tuple[str, ...]
    loads: tuple[float, ...]
    seeds: tuple[int, ...]
    requests: int
    devices: int
    gamma: float
    burst: float
    intensity: float
    engine: str
    lock: Path | None

    @property
    def prior(self) -> Path:
        return self.out / "profile" / "token_prior.npz"

    @property
    def prompts(self) -> Path:
        return self.out / "prompts.jsonl"

    def arrivals(self, seed: int) -> Path:
        return self.out / f"arrivals-{seed}.csv"

    @property
    def cells(self) -> list[tuple[str, str]]:
        """A strategy and a policy each; the first is what others are compared with."""
        return [(strategy, policy) for policy in self.policies for strategy in self.strategies]

    def result(self, cell: tuple[str, str], load: float, seed: int) -> Path:
        return self.out / "results" / f"{label_of(cell)}-{load:g}-{seed}.json"

    def server_arguments(self, cell: tuple[str, str]) -> list[str]:
        strategy, policy = cell
        words = [MODEL, "--engine", self.engine, "--dtype", "float32", "--max-num-seqs", "64"]
        words += ["--devices", str(self.devices), "--scheduler", strategy]
        if strategy != "fcfs":
            words += ["--prior", str(self.prior)]
        if policy != "none":
            words += ["--policy", f"{policy}:level=device", "--gamma", str(self.gamma)]
        return [*words, "--", *ENGINE_ARGUMENTS] if self.engine == "vllm" else words


def label_of(cell: tuple[str, str]) -> str:
    return "+".join(cell)


def prepare(study: Study) -> None:
    """The prior, learned on the first half of each text, and prompts of the second."""
    if not study.prior.exists():
        command = [
            program(),
            "profile",
            MODEL,
            "--predictor",
            "token-prior",
            "--out",
            str(study.prior.parent),
        ]
        subprocess.run(command, check=True)
    _first, second = halves(heldout_texts())
    prompts = prompts_of_texts(second, PROMPT_WORDS)
    lines = [json.dumps({"prompt": prompt.text, "topic": prompt.topic}) for prompt in prompts]
    study.prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for seed in study.seeds:
        write_arrivals(study, seed, list(second))


def write_arrivals(study: Study, seed: int, topics: list[str]) -> None:
    """Bursts, as a trace of exactly one request a second: so that each seed has the load it should have."""
    bursts = Bursty(rate_per_s=1.0, burst_requests=study.burst, intensity=study.intensity)
    drawn = list(islice(stream(bursts, np.random.default_rng(seed), topics), study.requests + WARM_UP))
    start_s, span_s = drawn[0].at_s, drawn[study.requests - 1].at_s - drawn[0].at_s
    rows = ["arrived_s,prompt_tokens,output_tokens,topic"]  # the client sends whole prompts, however long
    for arrival in drawn:
        at_s = (arrival.at_s - start_s) / span_s * (study.requests - 1)
        rows.append(f"{at_s:.6f},{PROMPT_WORDS},{MAX_TOKENS},{topics[arrival.topic]}")
    study.arrivals(seed).write_text("\n".join(rows) + "\n", encoding="utf-8")


def capacity(study: Study, url: str) -> float:
    """Requests per second that a server finishes when all are there at once; measured once."""
    path = study.out / "capacity.json"
    if not path.exists():
        send(study, url, ["--rate", "inf"], path, seed=0)
    body = json.loads(path.read_text(encoding="utf-8"))
    return float(body["result"]["finished_per_s"])


def send(study: Study, url: str, traffic: Sequence[str], path: Path, seed: int, label: str = "") -> None:
    """One run of the client against a running server."""
    command = [program(), "load", url, *traffic, "--prompts", str(study.prompts), "--ignore-eos"]
    command += ["--requests", str(study.requests), "--max-tokens", str(MAX_TOKENS), "--warm-up", str(WARM_UP)]
    command += ["--seed", str(seed), "--json", str(path)]
    status = subprocess.run([*command, "--label", label] if label else command, check=False).returncode
    if status > 1:  # 1: some request did not finish, which the result tells
        raise SystemExit(status)


def run(study: Study) -> None:
    """Run what is not finished."""
    prepare(study)
    rounds = [
        (load, seed)
        for seed in study.seeds
        for load in study.loads
        if not all(study.result(cell, load, seed).exists() for cell in study.cells)
    ]
    if not rounds:
        return
    with ExitStack() as stack:
        urls = {}
        with locked(study.lock):
            for cell in study.cells:
                log = study.out / "logs" / f"{label_of(cell)}.log"
                urls[cell] = stack.enter_context(served(study.server_arguments(cell), log)).url
            rate = capacity(study, urls[study.cells[0]])
        for number, (load, seed) in enumerate(rounds):
            place = number % len(study.cells)
            with locked(study.lock):
                for cell in study.cells[place:] + study.cells[:place]:
                    print(f"== {load:g} of capacity, seed {seed}: {label_of(cell)}", flush=True)
                    traffic = ["--arrivals", str(study.arrivals(seed)), "--speedup", f"{load * rate:.3f}"]
                    send(study, urls[cell], traffic, study.result(cell, load, seed), seed, label_of(cell))


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold a lock file, as flock(1) does."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tables(study: Study) -> Iterator[str]:
    """Markdown: for each load everything against fcfs without limits, then each pair that differs in one thing."""
    for load in study.loads:
        yield f"### {load:.0%} of capacity\n"
        yield table(study, load, study.cells) + "\n"
        for policy in study.policies[1:]:
            yield f"The same policy, {policy}, under each strategy:\n"
            yield table(study, load, [(strategy, policy) for strategy in study.strategies]) + "\n"


def table(study: Study, load: float, cells: Sequence[tuple[str, str]]) -> str:
    runs = [read_run(study.result(cell, load, seed)) for cell in cells for seed in study.seeds]
    return comparison_markdown(compare_runs(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/serve_study"))
    parser.add_argument("--strategies", nargs="+", default=["fcfs", "peak_excess", "auto"])
    parser.add_argument("--policies", nargs="+", default=["none", "token_drop"])
    parser.add_argument("--loads", nargs="+", type=float, default=[0.8, 1.4], help="shares of the capacity")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--requests", type=int, default=320)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--gamma", type=float, default=1.25)
    parser.add_argument("--burst", type=float, default=12)
    parser.add_argument("--intensity", type=float, default=3)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--lock", type=Path, help="a file to lock for each round, where others measure too")
    options = vars(parser.parse_args())
    study = Study(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    )
    study.out.mkdir(parents=True, exist_ok=True)
    run(study)
    text = "\n".join(tables(study))
    (study.out / "study.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
