"""Expert parallelism for real: each process holds a share of the experts and has requests of its own.

Every rank has two requests on one subject, as a burst brings them; their tokens crowd the same experts, so one rank's
experts have more to run than the others', and all wait for it. Token Drop at gamma 1.0 limits every expert, and what it
drops is not sent. The outputs are those of one process with as many virtual devices.

Run: python examples/expert_parallel.py                                  (starts two processes)
     torchrun --nproc-per-node 2 examples/expert_parallel.py
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import evenmoe
from evenmoe import parallel
from evenmoe.models.bundled import bundled_tokenizer
from evenmoe.routing import Baseline, Policy, TokenDrop

NUM_TOKENS = 40
CODE = (
    '''
def read_lines(path, encoding="utf-8"):
    """Return the lines of a file."""
    with open(path, encoding=encoding) as handle:
        lines = [line.rstrip("\\n") for line in handle]
    if not lines:
        raise ValueError("the file is empty")
    return lines
''',
    """
    for name, value in sorted(options.items()):
        if value is None:
            continue
        if name not in self.known:
            raise KeyError(name)
        self.values[name] = value
    return self.values
""",
)
GERMAN = (
    """
Wenn die Datei nicht gefunden wird, gibt das Programm eine Warnung aus und wird mit einem Fehler beendet. Die
Option bestimmt, welche Zeichen in der Ausgabe ersetzt werden.
""",
    """
In der Voreinstellung werden alle Zeilen der Datei ausgegeben, und die Anzahl der Zeilen wird am Ende angezeigt.
Das Verhalten kann mit einer Umgebungsvariablen gesteuert werden.
""",
)


def requests_of(rank: int, tokenizer: Any) -> Tensor:
    """Return the ids of a rank's two requests."""
    texts = (CODE, GERMAN)[rank % 2]
    return torch.tensor([tokenizer(text).input_ids[:NUM_TOKENS] for text in texts])


def in_one_process(model: Any, tokenizer: Any, policy: Policy, num_ranks: int) -> Tensor:
    """Return the logits of all ranks' requests, from one process with virtual devices."""
    rows = torch.cat([requests_of(rank, tokenizer) for rank in range(num_ranks)])
    attached = evenmoe.attach(model, policy, num_devices=num_ranks)
    with attached, attached.assign([row // 2 for row in range(rows.shape[0])]), torch.inference_mode():
        logits: Tensor = model(rows).logits
    return logits


def compare(group: parallel.Group, _progress: Any = None) -> list[str]:
    """Return the lines of the table; every rank returns the same."""
    model, tokenizer = evenmoe.load_bundled("text"), bundled_tokenizer("text")
    part = copy.deepcopy(model)
    experts = parallel.shard(part, group)
    lines = []
    for policy in (Baseline(), TokenDrop(gamma=1.0)):
        with evenmoe.attach(part, policy, parallel=experts) as attached, torch.inference_mode():
            logits = part(requests_of(group.rank, tokenizer)).logits
            loads = parallel.gather_loads(attached)
        expected = in_one_process(model, tokenizer, policy, group.world_size)
        own = expected[2 * group.rank : 2 * group.rank + 2]
        is_equal = torch.allclose(logits, own, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        lines.append(
            row(
                policy.name,
                attached.loads.total.after_LE,
                loads,
                experts,
                all(group.all_gather_objects(is_equal)),
            )
        )
    return lines


def row(name: str, own_LE: Any, loads: evenmoe.ExpertLoads, experts: Any, is_equal: bool) -> str:
    """Return one line of the table."""
    sent = experts.group.all_gather_objects(int(own_LE.sum()))
    load_LD = [
        experts.placement.device_load(load_E, layer) for layer, load_E in enumerate(loads.total.after_LE)
    ]
    run = [int(sum(load_D[rank] for load_D in load_LD)) for rank in range(experts.num_devices)]
    return (
        f"{name:<10}  {listed(sent):>13}  {listed(run):>13}  {loads.straggler_factor:>9.2f}  "
        f"{'yes' if is_equal else 'NO'}"
    )


def listed(numbers: Sequence[int]) -> str:
    """Return the numbers of all ranks in one column."""
    return " / ".join(map(str, numbers))


def report(lines: Sequence[str]) -> str:
    """Return the example's output."""
    head = [
        f"Two requests of {NUM_TOKENS} tokens on each rank. Pairs sent: by each rank for its own tokens. Pairs run: by",
        "each rank's experts, over all layers. Straggler: the busiest rank's load over the even load of all pairs",
        "asked for.",
        "",
        "policy         pairs sent      pairs run  straggler  equals one process",
    ]
    return "\n".join([*head, *lines])


def main(num_ranks: int = 2) -> str | None:
    """Return the output: of new processes, or under torchrun on rank 0."""
    if "RANK" not in os.environ:
        return report(parallel.launch(compare, num_ranks=num_ranks)[0])
    with parallel.init() as group:
        lines = compare(group)
        return report(lines) if group.rank == 0 else None


if __name__ == "__main__":
    output = main()
    if output is not None:
        print(output)
