"""The model card: `metrics.json` drawn as `README.md`, `training.svg` and `heldout/LICENSES.md`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.text_model.curve import curve_svg

COMMAND = "python -m tools.text_model --work DIR --out DIR"


def write_card(out: Path) -> None:
    """Draw the card from the metrics in the same folder."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (out / "training.svg").write_text(curve_svg(metrics["curve"]), encoding="utf-8")
    (out / "README.md").write_text(card_text(metrics), encoding="utf-8")
    write_licences(metrics["corpus"], out)


def write_licences(corpus: dict[str, Any], out: Path) -> None:
    """State where each held-out text comes from and under which licence."""
    rows = [
        [f"`{domain}.txt`", facts["origin"], facts["version"], facts["licence"]]
        for domain, facts in corpus.items()
    ]
    names = [f"- `{domain}.txt`: {', '.join(facts['held_out_names'])}" for domain, facts in corpus.items()
             if domain != "arithmetic"]  # fmt: skip
    text = LICENCES.format(
        table=table(["file", "source", "version", "licence"], rows), names="\n".join(names)
    )
    (out / "heldout" / "LICENSES.md").write_text(text, encoding="utf-8")


def card_text(metrics: dict[str, Any]) -> str:
    """The whole card as Markdown."""
    recipe, quality = metrics["recipe"], metrics["quality"]["all"]
    return CARD.format(
        command=COMMAND, threads=metrics["threads"], cpus=metrics["cpus"], parameters=metrics["parameters"] / 1e6,
        **{name: recipe[name] for name in ("hidden_size", "num_layers", "num_heads", "num_experts", "vocab_size",
                                           "num_experts_per_token", "intermediate_size", "sequence_length",
                                           "max_positions", "aux_loss_coefficient", "overlap_words", "num_steps",
                                           "muon_learning_rate", "adam_learning_rate", "newton_schulz_steps",
                                           "held_out_fraction", "seed")},
        max_imbalance=recipe["num_experts"] / recipe["num_experts_per_token"],
        head_size=recipe["hidden_size"] // recipe["num_heads"],
        embeddings="tied" if recipe["tie_embeddings"] else "untied",
        accuracy=quality["accuracy"], bits_per_byte=quality["bits_per_byte"], loss=quality["loss"],
        perplexity=math.exp(quality["loss"]), held_out_tokens=quality["tokens"],
        train_tokens=metrics["train_tokens"] / 1e6,
        minutes=metrics["train_seconds"] / 60, tokens_per_second=metrics["train_tokens"] / metrics["train_seconds"],
        tokens_per_step=metrics["train_tokens"] // metrics["curve"][-1]["step"],
        versions=", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
        quality_table=quality_table(metrics), imbalance_table=imbalance_table(metrics),
        data_table=data_table(metrics), curve_table=curve_table(metrics),
    )  # fmt: skip


def quality_table(metrics: dict[str, Any]) -> str:
    """Held-out quality, a row per domain."""
    rows = [
        [
            domain,
            f"{q['tokens']:,.0f}",
            f"{q['loss']:.3f}",
            f"{q['bits_per_byte']:.3f}",
            f"{q['accuracy']:.1%}",
        ]
        for domain, q in metrics["quality"].items()
    ]
    return table(["domain", "tokens", "loss (nats/token)", "bits per byte", "next-token accuracy"], rows)


def imbalance_table(metrics: dict[str, Any]) -> str:
    """Peak expert over the mean, a row per domain, a column per layer."""
    layers = [f"layer {i}" for i in range(metrics["recipe"]["num_layers"])]
    rows = [[domain, *(f"{peak:.2f}" for peak in peaks)] for domain, peaks in metrics["imbalance"].items()]
    return table(["held-out text", *layers], rows)


def data_table(metrics: dict[str, Any]) -> str:
    """Sources, licences, sizes and overlap."""
    share = metrics["recipe"]["sequences_per_step"]
    rows = [
        [domain, facts["origin"], facts["version"], facts["licence"], f"{facts['train_bytes'] / 1e6:.1f} MB",
         f"{metrics['train_stream_tokens'][domain] / 1e6:.2f} M", f"{share[domain]}/{sum(share.values())}",
         f"{facts['held_out_bytes'] / 1e3:.0f} kB", f"{facts['shared_before']:.2%}", f"{facts['shared_after']:.2%}"]
        for domain, facts in metrics["corpus"].items()
    ]  # fmt: skip
    return table(["domain", "source", "version", "licence", "training text", "tokens", "share of each step",
                  "held out", "shared before", "shared after"], rows)  # fmt: skip


def curve_table(metrics: dict[str, Any]) -> str:
    """The points of the curve at which held-out text was measured."""
    per_step = metrics["train_tokens"] / metrics["curve"][-1]["step"]
    rows = [
        [str(row["step"]), f"{row['step'] * per_step / 1e6:.2f} M", f"{row['loss']:.3f}",
         f"{row['held_out_loss']:.3f}", f"{row['held_out_accuracy']:.1%}", f"{row['aux_loss']:.2f}",
         f"{row['seconds'] / 60:.0f}"]
        for row in metrics["curve"] if "held_out_loss" in row
    ]  # fmt: skip
    return table(["step", "tokens", "training loss", "held-out loss", "held-out accuracy", "auxiliary loss",
                  "minutes"], rows)  # fmt: skip


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


LICENCES = """# Where the held-out texts come from

Extracts for measuring, documents separated by a line with a form feed. Markup was removed, passages that also
occur in training text were left out, and long documents were cut. Each text stays under its own licence, whose
text is in `licences/<domain>.txt`; for the manual pages that file also holds the notices of each page's authors and
translators, and the pages' sources are at <https://salsa.debian.org/manpages-l10n-team/manpages-l10n>.

{table}

The copyright of the King James Version has expired (in the United Kingdom it is under Crown letters patent). The
arithmetic is generated and free of rights.

## Documents

{names}
"""

CARD = """# The bundled text model

A small Mixture-of-Experts language model with OLMoE's architecture, trained from scratch on free text so that
experiments on expert imbalance run offline. Its experts specialise by domain, and its imbalance is left as it grows
under the auxiliary loss that OLMoE uses. Every figure on this page is drawn from `metrics.json`, which the
recipe's run wrote.

| | |
|---|---|
| architecture | `OlmoeForCausalLM`: hidden {hidden_size}, {num_layers} layers, {num_heads} heads of {head_size}, \
{num_experts} experts of {intermediate_size}, top-{num_experts_per_token}, {embeddings} embeddings |
| size | {parameters:.2f} M parameters, bfloat16 |
| tokenizer | byte-level BPE, {vocab_size} entries, each digit a token |
| held-out next-token accuracy | **{accuracy:.1%}** over all domains, equally many tokens of each |
| held-out loss | {loss:.3f} nats per token (perplexity {perplexity:.1f}), {bits_per_byte:.3f} bits per byte, \
over {held_out_tokens:,.0f} tokens |
| training | {train_tokens:.1f} M tokens in {num_steps} steps, {minutes:.0f} minutes on {threads} thread(s) of a \
{cpus}-CPU machine ({tokens_per_second:,.0f} tokens per second) |
| versions | {versions} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

## Quality on held-out text

Sequences of {sequence_length} tokens from an empty context, float32 arithmetic on the bfloat16 weights that ship.

{quality_table}

## Expert imbalance

The busiest expert's load over the mean load, per layer, when all of a domain's held-out tokens are one batch; 1.00 is
even, {max_imbalance:.2f} is every token on the same experts. `mixed` is all of them together, equally many tokens of
each domain.

{imbalance_table}

## Training

![training curve](training.svg)

Held-out figures here are over the first sequences of each domain, so they differ a little from the table above.

{curve_table}

{tokens_per_step} tokens per step, in sequences of {sequence_length}, each of one domain. Muon (peak learning rate \
{muon_learning_rate}, {newton_schulz_steps} Newton-Schulz steps, each expert's matrices apart) for attention and \
experts, AdamW (peak {adam_learning_rate}) for embeddings, norms and routers; warm-up, plateau, then linear to zero. \
Loss: next-token cross-entropy + {aux_loss_coefficient} x the load-balancing loss of transformers' OLMoE. Seed {seed}.

## Data

{data_table}

A document is held out when the SHA-256 of its name, as a fraction, is below {held_out_fraction}. *Shared* is the
share of the held-out text's runs of {overlap_words} words that training text (of any domain) holds too: before the
clean-up, and after dropping every passage that completes such a run. Arithmetic problems are split by the hash of the
problem itself.

## Make it again

```
{command}
```

On Debian, with the packages' archive reachable (`apt-get download`; nothing is installed). The number of steps is
fixed, never the time; an interrupted run goes on from its last training checkpoint. Newer package versions give
slightly different text, hence slightly different figures.

## Limits

A research instrument, not an assistant: it continues text in the style of its domains and knows nothing reliably, in
particular no arithmetic. Trained on sequences of {sequence_length} tokens; positions beyond that (up to
{max_positions}) are accepted but were never trained. The domains are far apart, so their experts separate more
sharply than on general web text; absolute imbalance does not carry over to large models. The training text is under
several licences (table above); the held-out extracts keep their own (`heldout/LICENSES.md`).
"""
