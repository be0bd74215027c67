"""A neighbour in the batch can take a request's experts away, unless the policy isolates requests.

One request is run beside a quiet neighbour and beside a noisy one, which repeats a line that crowds the request's
experts. Only the neighbour's text differs. With isolation="batch" the neighbour takes (token, expert) pairs that the
request would keep alone: it can do the request harm, and can tell from its own output what the request holds. With
"request" nothing that the request would keep alone is taken; spare room is still lent, so its output may gain from a
quiet neighbour. With "strict" nothing is lent either, and the request's result does not depend on its neighbour at all.

Run: python examples/noisy_neighbour.py
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor, nn

import evenmoe
from evenmoe.models.bundled import bundled_tokenizer
from evenmoe.models.session import LayerStep
from evenmoe.routing import RoutingContext, TokenDrop
from evenmoe.routing.groups import Isolation

NUM_TOKENS = 64
REQUEST = '''
def read_lines(path, encoding="utf-8"):
    """Return the lines of a file."""
    with open(path, encoding=encoding) as handle:
        lines = [line.rstrip("\\n") for line in handle]
    if not lines:
        raise ValueError("the file is empty")
    return lines


def write_lines(path, lines):
    with open(path, "w") as handle:
        for line in lines:
            handle.write(line + "\\n")
'''
QUIET = """
Wenn die Datei nicht gefunden wird, gibt das Programm eine Warnung aus und wird mit einem Fehler beendet. Die
Option bestimmt, welche Zeichen in der Ausgabe ersetzt werden. In der Voreinstellung werden alle Zeilen der
Datei ausgegeben, und die Anzahl der Zeilen wird am Ende angezeigt. Das Verhalten kann mit einer
Umgebungsvariablen gesteuert werden, die vor dem Aufruf des Programms gesetzt werden muss.
"""
NOISY = "        handle.write(line)\n" * 20


def run(model: nn.Module, ids: Tensor, policy: TokenDrop) -> tuple[list[LayerStep], Tensor]:
    """Return what every layer kept, and the logits of the request, which is the last row."""
    steps: list[LayerStep] = []
    with evenmoe.attach(model, policy) as attached, attached.observed(steps.append), torch.inference_mode():
        logits = model(ids).logits
    return steps, logits[-1]


def taken(step: LayerStep, policy: TokenDrop) -> int:
    """Return how many pairs the request lost that it would keep alone, with the same scores."""
    own = slice(-NUM_TOKENS, None)
    context = RoutingContext(request_of_token_T=torch.zeros(NUM_TOKENS, dtype=torch.long))
    alone = policy.keep(step.scores_TE[own], step.chosen_TE[own], context)
    return int((alone & ~step.kept_TE[own]).sum())


def compare(model: nn.Module, quiet: Tensor, noisy: Tensor, isolation: Isolation) -> str:
    """Return one line of the table: what the neighbour took, and whether the request's result depends on it."""
    policy = TokenDrop(gamma=1.0, isolation=isolation)
    quiet_steps, quiet_logits = run(model, quiet, policy)
    noisy_steps, noisy_logits = run(model, noisy, policy)
    own = slice(-NUM_TOKENS, None)
    lost = sum(taken(step, policy) for step in noisy_steps)
    moved = sum(
        int((q.kept_TE[own] ^ n.kept_TE[own]).sum()) for q, n in zip(quiet_steps, noisy_steps, strict=True)
    )
    shift = float((quiet_logits - noisy_logits).abs().max())
    return f"{isolation:<9}  {lost:>11}  {moved:>17}  {shift:>16.2f}"


def main(model: Any, tokenizer: Any) -> str:
    """Return the example's output."""

    def encode(text: str) -> Tensor:
        return torch.tensor(tokenizer(text).input_ids[:NUM_TOKENS])

    request = encode(REQUEST)
    quiet, noisy = torch.stack([encode(QUIET), request]), torch.stack([encode(NOISY), request])
    pairs = NUM_TOKENS * model.config.num_experts_per_tok * model.config.num_hidden_layers
    lines = [
        f"A request of {NUM_TOKENS} tokens, {pairs} (token, expert) pairs over all layers, Token Drop at gamma 1.0,",
        "beside a quiet and beside a noisy neighbour. Pairs taken: those of the request, kept alone, that the",
        "noisy one takes.",
        "",
        "isolation  pairs taken  pairs that differ  logits differ by",
    ]
    lines += [compare(model, quiet, noisy, isolation) for isolation in get_args(Isolation)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(evenmoe.load_bundled("text"), bundled_tokenizer("text")))
