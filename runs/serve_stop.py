"""docs/serving.md: what a stop loses. A server with requests running and waiting gets SIGTERM; each answer is counted.

    serve      evenmoe serve
    vllm-N     vLLM by itself, with --shutdown-timeout N; 0 is its default

Every request is sent, and accepted, before the signal. Needs a Python that has vllm and evenmoe.
About 1 minute a server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evenmoe.serving.launch.addresses import claim_port, is_healthy, url_of
from evenmoe.serving.launch.checkpoint import prepare
from evenmoe.serving.launch.traps import around_traps
from evenmoe.serving.load import ClientOptions, Planned, Record, heldout_texts, prompts_of_texts, run_load

MODEL = "bundled:text"
LITTLE_ROOM = ("--max-num-batched-tokens", "1024", "--enforce-eager")


def command(variant: str, port: int) -> list[str]:
    """How the server of a variant is started."""
    if variant == "serve":
        ours = [sys.executable, "-c", "from evenmoe.cli.main import run; run()", "serve", MODEL]
        return [*ours, "--engine", "vllm", "--port", str(port), "--max-num-seqs", "4", "--", *LITTLE_ROOM]
    path = prepare(MODEL, "vllm").path
    vllm = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path]
    name = ["--served-model-name", MODEL, "--port", str(port), "--max-num-seqs", "4"]
    return [*vllm, *name, "--shutdown-timeout", variant.removeprefix("vllm-"), *LITTLE_ROOM]


@contextmanager
def running(variant: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that answers; afterwards none."""
    port = claim_port("127.0.0.1", 0)
    environment = around_traps({"VLLM_CPU_KVCACHE_SPACE": "1"} | os.environ)
    process = subprocess.Popen(
        command(variant, port),
        env=environment,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    url = url_of("127.0.0.1", port)
    try:
        while not is_healthy(url):
            if process.poll() is not None:
                sys.exit(f"{variant}: the server ended with {process.returncode}")
            time.sleep(0.2)
        yield process, url
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def waiting(url: str) -> int:
    """Requests that wait in the engine, by vLLM's own metrics."""
    text = urllib.request.urlopen(url + "/metrics", timeout=5).read().decode()
    lines = (line for line in text.splitlines() if line.startswith("vllm:num_requests_waiting{"))
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def stopped(variant: str, requests: int, max_tokens: int) -> tuple[list[Record], int]:
    """The record of each request, and the server's exit status."""
    texts = prompts_of_texts(heldout_texts(), 64)[:requests]
    plan = [Planned(at_s=0.0, text=text.text, topic=text.topic, max_tokens=max_tokens) for text in texts]
    records: list[Record] = []
    with running(variant) as (process, url):
        options = ClientOptions(url=url, model=MODEL, ignore_eos=True, timeout_s=120)
        client = threading.Thread(target=lambda: records.extend(asyncio.run(run_load(plan, options))[0]))
        client.start()
        while waiting(url) < requests // 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        client.join()
        return records, process.wait(120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", default=["serve", "vllm-60", "vllm-0"])
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    print("| server | whole answers | others | exit status |\n|---|---|---|---|")
    for variant in options.variants:
        records, status = stopped(variant, options.requests, options.max_tokens)
        whole = [r for r in records if r.outcome == "finished" and r.num_tokens == options.max_tokens]
        others = Counter(
            f"{r.outcome}: {r.error or f'{r.num_tokens} tokens'}" for r in records if r not in whole
        )
        told = "; ".join(f"{count} {what}" for what, count in others.most_common())
        print(f"| {variant} | {len(whole)} of {len(records)} | {told} | {status} |", flush=True)


if __name__ == "__main__":
    main()
