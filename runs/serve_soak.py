"""docs/serving_study.md, "5,000 requests": the highest rate a server keeps up with, a long run at it, and twice it.

A server with everything on (routing, scheduling, metrics). Every request has an id; the client checks that each came to
one end and no answer came twice, and the server's own count of finished requests is held against the client's. The
resident memory of all the server's processes is sampled. Exit status 1 where anything is lost, doubled or refused, or
the floor of memory is not flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving_server import Server, program, served

from evenmoe.serving.load import ClientOptions, heldout_texts, prompts_of_texts, served_model
from evenmoe.serving.load.sustained import Soak, Traffic, capacity, probes, soak

MODEL = "bundled:text"
PROMPT_WORDS = 64
COUNTED = re.compile(r"^vllm:request_success_total\{.*\} (\S+)$", re.MULTILINE)
MOST_GROWTH = 0.01
"""Memory is flat where it surely grows by at most this share in the course of the long run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is sent, and to what server."""

    engine: str
    scheduler: str
    policy: str
    gamma: float
    requests: int
    overload: int
    probe: int
    max_tokens: int
    seed: int
    rate: float | None
    out: Path

    @property
    def prior(self) -> Path:
        return self.out / "profile" / "token_prior.npz"

    def server_arguments(self) -> list[str]:
        words = [
            MODEL,
            "--engine",
            self.engine,
            "--dtype",
            "float32",
            "--max-num-seqs",
            "64",
            "--devices",
            "4",
        ]
        words += ["--policy", self.policy, "--gamma", str(self.gamma), "--scheduler", self.scheduler]
        if self.scheduler != "fcfs":
            words += ["--prior", str(self.prior)]
        if self.engine == "vllm":
            words += ["--", "--enforce-eager", "--max-num-batched-tokens", "1024"]
            words += [
                "--no-enable-prefix-caching"
            ]  # prompts come again; the first should cost as much as the last
        return words


def finished_by_the_server(url: str) -> int | None:
    """How many requests the server says it has finished; None where it does not."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        found = COUNTED.findall(answer.read().decode("utf-8"))
    return round(sum(map(float, found))) if found else None


def measure(plan: Plan, server: Server) -> dict[str, Any]:
    """Everything in order: capacity, the search, the long run, twice its rate."""
    options = ClientOptions(
        url=server.url, model=asyncio.run(served_model(server.url)), ignore_eos=True, timeout_s=600
    )
    traffic = Traffic(
        prompts=prompts_of_texts(heldout_texts(), PROMPT_WORDS), max_tokens=plan.max_tokens, seed=plan.seed
    )
    search: list[dict[str, Any]] = []
    rate = plan.rate
    if rate is None:
        most = capacity(options, traffic, plan.probe)
        say(f"all at once: {most:.2f} requests per second")
        for probe in probes(options, traffic, most, plan.probe):
            verdict = "keeps up" if probe.keeps_up else "falls behind"
            say(f"{probe.rate_per_s:.2f} per second: backlog {probe.backlog.slope:+.3f} a request, {verdict}")
            search.append(asdict(probe))
            rate = probe.rate_per_s
    assert rate is not None
    runs = {}
    for name, factor, requests in (("sustained", 1, plan.requests), ("twice", 2, plan.overload)):
        counted = finished_by_the_server(server.url)
        found = soak(options, traffic, factor * rate, requests, lambda: sum(server.rss_bytes().values()))
        after = finished_by_the_server(server.url)
        own = None if counted is None or after is None else after - counted
        say(f"{name}: {describe(found, own)}")
        runs[name] = found.as_dict() | {"finished_by_the_server": own, "problems": problems(found, own)}
    steady = runs["sustained"]
    if steady["floor"] is None:
        steady["problems"].append("memory: too few samples")
    elif not is_flat(steady):
        steady["problems"].append("memory is not flat")
    return {"rate_per_s": rate, "search": search, **runs, "rss_by_process": server.rss_bytes()}


def problems(found: Soak, own: int | None) -> list[str]:
    """What should not have been, in words."""
    result = found.result
    wrong = {
        "lost": result.lost,
        "answered twice": result.doubled,
        "given another's answer": result.strayed or 0,
        "not finished": result.requests - result.outcomes.get("finished", 0),
        "by which the server's count differs": 0 if own is None else abs(own - result.requests),
    }
    return [f"{number} {what}" for what, number in wrong.items() if number]


def is_flat(steady: dict[str, Any]) -> bool:
    """Whether the memory in use surely grows by at most MOST_GROWTH in the long run."""
    floor = steady["floor"]
    return bool(floor["high"] * steady["result"]["requests"] <= MOST_GROWTH * floor["level"])


def describe(found: Soak, own: int | None) -> str:
    result = found.result
    assert result.latency is not None
    text = (
        f"{result.outcomes} of {result.requests} at {found.rate_per_s:.2f} per second in {result.seconds:.0f} s; "
        f"latency P50 {result.latency.p50:.2f} s, P99 {result.latency.p99:.2f} s; "
        f"at most {result.most_in_flight} at once; "
        f"backlog {found.backlog.slope:+.4f} a request; {result.lost} lost, {result.doubled} answered twice, "
        f"{result.strayed} given another's answer; finished by the server's count: {own}; {result.num_late} sent late"
    )
    for name, of in (("memory", found.memory), ("its floor", found.floor)):
        if of is not None:
            slope, low, high = (value * 1000 / 2**20 for value in (of.slope, of.low, of.high))
            text += f"; {name} {of.level / 2**20:.0f} MiB, {slope:+.2f} MiB per 1,000 requests"
            text += f" (95%: {low:+.2f} to {high:+.2f})"
    return text


def say(sentence: str) -> None:
    print(sentence, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/serve_soak"))
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--scheduler", default="auto")
    parser.add_argument("--policy", default="token_drop")
    parser.add_argument("--gamma", type=float, default=1.5)
    parser.add_argument("--requests", type=int, default=5000, help="at the sustained rate")
    parser.add_argument("--overload", type=int, default=500, help="at twice that rate")
    parser.add_argument("--probe", type=int, default=500, help="for each rate that is tried")
    parser.add_argument("--rate", type=float, help="take this rate and search none")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    plan = Plan(**vars(parser.parse_args()))
    plan.out.mkdir(parents=True, exist_ok=True)
    if plan.scheduler != "fcfs" and not plan.prior.exists():
        command = [program(), "profile", MODEL, "--predictor", "token-prior", "--out", str(plan.prior.parent)]
        subprocess.run(command, check=True)
    with served(plan.server_arguments(), plan.out / "server.log") as server:
        found = measure(plan, server)
    config = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(plan).items()}
    path = plan.out / "soak.json"
    path.write_text(json.dumps({"config": config, **found}, indent=1) + "\n", encoding="utf-8")
    wrong = [f"{name}: {what}" for name in ("sustained", "twice") for what in found[name]["problems"]]
    say("\n".join(wrong) or "nothing lost, nothing answered twice, memory flat")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
