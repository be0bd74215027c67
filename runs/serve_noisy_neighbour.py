"""A noisy neighbour on the running server: what attackers in its step take from a request, by isolation.

The victim is sent alone, then amid attackers whose prompts flood the victim's own experts. The server runs with its
record of single requests switched on (`metrics.per_request_loads`), which says which (token, expert) pairs each kept,
and whether they shared a step. Called by serve_noisy_neighbour.sh.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from torch import Tensor, nn

import evenmoe
from evenmoe.models.bundled import bundled_tokenizer
from evenmoe.models.session import LayerStep
from evenmoe.routing import Baseline, Policy, RoutingContext, TokenDrop
from evenmoe.serving.vllm.request_log import RowRouting, read_request_log

VICTIM = """def read_lines(path, encoding="utf-8"):
    with open(path, encoding=encoding) as handle:
        lines = [line.rstrip("\\n") for line in handle]
    if not lines:
        raise ValueError("the file is empty")
    return lines
"""
LINE = "        handle.write(line)\n"
GAMMA = 1.0
NUM_ATTACKERS = 6
ATTACKER_TOKENS = 200
NUM_FLOOD_TOKENS = 64
PACER_TOKENS = 900
"""A prompt whose step lasts long enough for all others to be waiting when the next one begins."""
ISOLATIONS = ("batch", "request", "strict")
MOST_TRIES = 20
START_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One isolation's line: the victim alone against the victim amid attackers.

    lost_first: pairs of the first MoE layer kept alone and not amid; both runs give that layer the same inputs.
    lost_all: of all layers, whose inputs differ after the first if anything was taken or lent.
    gained_all: kept amid and not alone. below_room: pairs, of all layers, by which the victim kept fewer than it asked
    for and had room of its own for. logprob_shift: the largest change of a prompt token's log-probability.
    """

    isolation: str
    kept_alone: int
    kept_amid: int
    lost_first: int
    lost_all: int
    gained_all: int
    below_room: int
    logprob_shift: float
    same_answer: bool
    num_neighbours: int


def routed(model: nn.Module, policy: Policy, requests: Sequence[Tensor]) -> list[LayerStep]:
    """Return every layer's step for requests packed one after the other."""
    steps: list[LayerStep] = []
    ends = torch.tensor([0, *(len(request) for request in requests)]).cumsum(0)
    with evenmoe.attach(model, policy) as attached, attached.observed(steps.append), torch.inference_mode():
        model(
            input_ids=torch.cat(list(requests))[None],
            position_ids=torch.cat([torch.arange(len(request)) for request in requests])[None],
            cu_seq_lens_q=ends.int(),
            use_cache=False,
        )
    return steps


def taken(model: nn.Module, attackers: Sequence[Tensor], victim: Tensor) -> int:
    """Return the pairs that the victim would keep alone, with the same scores, and loses under isolation "batch"."""
    policy, own = TokenDrop(gamma=GAMMA), slice(-len(victim), None)
    context = RoutingContext(request_of_token_T=torch.zeros(len(victim), dtype=torch.long))
    lost = 0
    for step in routed(model, policy, [*attackers, victim]):
        alone = policy.keep(step.scores_TE[own], step.chosen_TE[own], context)
        lost += int((alone & ~step.kept_TE[own]).sum())
    return lost


def flooding_tokens(model: Any, victim: Tensor, chunk: int = 512, repeats: int = 8) -> Tensor:
    """Return [V]: all token ids, those that press hardest on the victim's experts first.

    A token's pressure is the sum, over layers and over the experts it chooses when it is repeated, of its gate score
    times how often the victim chooses that expert: a pair with a higher score takes the place of one with a lower.
    """
    demand_LE = torch.stack([step.chosen_TE.float().sum(0) for step in routed(model, Baseline(), [victim])])
    pressure = torch.zeros(model.config.vocab_size)
    steps: list[LayerStep] = []
    with (
        evenmoe.attach(model, Baseline()) as attached,
        attached.observed(steps.append),
        torch.inference_mode(),
    ):
        for ids in torch.arange(model.config.vocab_size).split(chunk):
            steps.clear()
            model(input_ids=ids[:, None].expand(-1, repeats).contiguous(), use_cache=False)
            for step in steps:
                pressed_T = (step.scores_TE * step.chosen_TE) @ demand_LE[step.layer]
                pressure[ids] += pressed_T.view(-1, repeats).mean(1)
    return pressure.argsort(descending=True, stable=True)


def attacks(model: Any, tokenizer: Any, victim: Tensor) -> dict[str, Tensor]:
    """Return the prompts that were tried, by name; each has ATTACKER_TOKENS tokens."""
    best = flooding_tokens(model, victim)
    prompts = {
        "the victim's own text": victim,
        "a line that crowds its experts": torch.tensor(tokenizer(LINE).input_ids),
        "the token of most pressure": best[:1],
        f"the {NUM_FLOOD_TOKENS} tokens of most pressure": best[:NUM_FLOOD_TOKENS],
    }
    return {
        name: ids.repeat(math.ceil(ATTACKER_TOKENS / len(ids)))[:ATTACKER_TOKENS]
        for name, ids in prompts.items()
    }


@dataclass(frozen=True)
class Answer:
    """What the victim's client sees."""

    text: str
    logprobs: tuple[float, ...]


class Served:
    """A running server and its record of single requests."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log

    def ask(self, ids: Tensor, max_tokens: int = 8) -> Answer:
        """Send token ids as a prompt; return the answer and the prompt's log-probabilities."""
        body = {
            "model": "bundled:text",
            "prompt": ids.tolist(),
            "max_tokens": max_tokens,
            "temperature": 0,
            "prompt_logprobs": 1,
        }
        answer = httpx2.post(f"{self.url}/v1/completions", json=body, timeout=120)
        answer.raise_for_status()
        choice = answer.json()["choices"][0]
        scored = zip(ids[1:].tolist(), choice["prompt_logprobs"][1:], strict=True)
        return Answer(choice["text"], tuple(float(table[str(token)]["logprob"]) for token, table in scored))

    def rows(self) -> list[RowRouting]:
        """What every request kept so far."""
        return read_request_log(self._log) if self._log.exists() else []

    def alone(self, victim: Tensor) -> tuple[Answer, RowRouting]:
        """Send the victim by itself."""
        seen = len(self.rows())
        answer = self.ask(victim)
        return answer, self._prompt_rows(seen, len(victim))[0]

    def amid(self, victim: Tensor, attacker: Tensor) -> tuple[Answer, RowRouting, int]:
        """Send the victim together with attackers until one step holds all; return the number of neighbours too."""
        for _ in range(MOST_TRIES):
            seen = len(self.rows())
            answer = self._send_together(victim, attacker)
            row = self._prompt_rows(seen, len(victim))[0]
            others = [
                other
                for other in self._prompt_rows(seen, len(attacker))
                if other.step == row.step and other.context == 0
            ]
            if len(others) == NUM_ATTACKERS:
                return answer, row, len(others)
        raise SystemExit(
            f"the victim never shared a step with {NUM_ATTACKERS} attackers in {MOST_TRIES} tries"
        )

    def _send_together(self, victim: Tensor, attacker: Tensor) -> Answer:
        """Keep the server busy with one long prompt, so that all others wait for the same step."""
        answers: list[Answer] = []
        others = [threading.Thread(target=self.ask, args=(attacker, 1)) for _ in range(NUM_ATTACKERS)]
        own = threading.Thread(target=lambda: answers.append(self.ask(victim)))
        pacer = threading.Thread(target=self.ask, args=(torch.arange(100, 100 + PACER_TOKENS), 1))
        pacer.start()
        time.sleep(0.03)
        for thread in (*others, own):
            thread.start()
        for thread in (pacer, *others, own):
            thread.join()
        return answers[0]

    def _prompt_rows(self, seen: int, num_tokens: int) -> list[RowRouting]:
        rows = [row for row in self.rows()[seen:] if row.phase == "prefill" and row.tokens == num_tokens]
        assert rows, "the record has no such prompt"
        return rows


@contextmanager
def serving(isolation: str) -> Iterator[Served]:
    """Run `evenmoe serve bundled:text` with Token Drop under one isolation."""
    with tempfile.TemporaryDirectory(prefix="noisy-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = Path(folder) / "evenmoe.toml"
        config.write_text(
            f'[routing]\npolicy = "token_drop"\ngamma = {GAMMA}\noptions = {{ isolation = "{isolation}" }}\n'
            "[metrics]\nper_request_loads = true\nleast_requests = 1\n"
        )
        spool = Path(folder) / "spool"
        spool.mkdir(mode=0o700)
        program = str(Path(sys.executable).with_name("evenmoe"))
        command = [program, "serve", "bundled:text", "--engine", "vllm", "--port", str(port)]
        command += ["--config", str(config), "--dtype", "float32", "--"]
        command += ["--enforce-eager", "--max-num-batched-tokens", "4096", "--no-enable-prefix-caching"]
        command += ["--no-enable-chunked-prefill"]
        environment = {"EVENMOE_SPOOL": str(spool), "VLLM_CPU_KVCACHE_SPACE": "1"}
        with open(Path(folder) / "log", "w+") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(url, server, Path(log.name))
                yield Served(url, spool / "requests.jsonl")
            finally:
                server.terminate()
                server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx2.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")


def pairs_of(row: RowRouting, num_experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return chosen and kept [L, T, E] of one request's prompt."""
    chosen = np.zeros((len(row.chosen), row.tokens, num_experts), dtype=bool)
    kept = np.zeros_like(chosen)
    for layer, tokens in enumerate(row.chosen):
        ran = row.kept[layer]
        for token, experts in enumerate(tokens):
            chosen[layer, token, list(experts)] = True
            kept[layer, token, list(experts if ran is None else ran[token])] = True
    return chosen, kept


def compare(isolation: str, victim: Tensor, attacker: Tensor, num_experts: int) -> Row:
    """Run one server, and the victim on it alone and amid attackers."""
    with serving(isolation) as server:
        answer_alone, row_alone = server.alone(victim)
        answer_amid, row_amid, num_neighbours = server.amid(victim, attacker)
    _, alone = pairs_of(row_alone, num_experts)
    chosen, amid = pairs_of(row_amid, num_experts)
    room = math.ceil(GAMMA * int(chosen[0].sum()) / num_experts)
    asked_LE, kept_LE = chosen.sum(1), amid.sum(1)
    shift = np.abs(np.subtract(answer_alone.logprobs, answer_amid.logprobs)).max()
    return Row(
        isolation=isolation,
        kept_alone=int(alone.sum()),
        kept_amid=int(amid.sum()),
        lost_first=int((alone & ~amid)[0].sum()),
        lost_all=int((alone & ~amid).sum()),
        gained_all=int((amid & ~alone).sum()),
        below_room=int((np.minimum(asked_LE, room) - kept_LE).clip(min=0).sum()),
        logprob_shift=round(float(shift), 4),
        same_answer=answer_alone.text == answer_amid.text,
        num_neighbours=num_neighbours,
    )


HEAD = """\
| isolation | kept alone | kept amid | lost, first layer | lost, all layers | gained | below own room | \
largest shift of a log-probability | same answer |
|---|---|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    """Return a row as Markdown."""
    counts = (row.kept_alone, row.kept_amid, row.lost_first, row.lost_all, row.gained_all, row.below_room)
    cells = [row.isolation, *map(str, counts), f"{row.logprob_shift:.4f}", "yes" if row.same_answer else "no"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Search the attack, run the servers, print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--isolations", nargs="+", choices=ISOLATIONS, default=ISOLATIONS)
    options = parser.parse_args()
    model, tokenizer = evenmoe.load_bundled("text"), bundled_tokenizer("text")
    victim = torch.tensor(tokenizer(VICTIM).input_ids)
    prompts = attacks(model, tokenizer, victim)
    damage = {
        name: [taken(model, [ids] * count, victim) for count in (1, NUM_ATTACKERS)]
        for name, ids in prompts.items()
    }
    strongest = max(damage, key=lambda name: damage[name][-1])
    kept = sum(int(step.kept_TE.sum()) for step in routed(model, TokenDrop(gamma=GAMMA), [victim]))
    print(f"The victim has {len(victim)} tokens and keeps {kept} pairs alone (Token Drop, gamma {GAMMA:g}).")
    print(f"Pairs that attackers of {ATTACKER_TOKENS} tokens each take from it under isolation batch:\n")
    print(f"| attacker repeats | 1 attacker | {NUM_ATTACKERS} attackers |\n|---|---|---|")
    for name, (one, all_of_them) in damage.items():
        print(f"| {name} | {one} | {all_of_them} |")
    print(f"\nOn the server, {NUM_ATTACKERS} attackers with {strongest}:\n\n{HEAD}", flush=True)
    rows = []
    for isolation in options.isolations:
        rows.append(compare(isolation, victim, prompts[strongest], model.config.num_experts))
        print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"damage": damage, "rows": [asdict(row) for row in rows]}, indent=1)
        )


if __name__ == "__main__":
    main()
