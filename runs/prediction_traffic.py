"""docs/prediction.md, "Traffic that changes": the bundled model on domains that its prior never saw, and feedback.

Priors learn on the first half of each domain's held-out text; all is measured on the second halves, in windows of 256
tokens. Tables: every domain predicted from the seven others; other shrinkages; shorter prompts; feedback on a stream
whose domains change half-way (and, as a null test, on one of domains that were all learned).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import evenmoe
from evenmoe.evaluation.prediction import halves
from evenmoe.evaluation.texts import cut_windows, heldout_texts, num_fitting
from evenmoe.models.prediction import record_prompts
from evenmoe.scheduling.predictors import (
    Feedback,
    RecordedPrompts,
    TokenPrior,
    cosine,
    fit_token_prior,
    sum_counts,
)

WINDOW = 256
FIRST, THEN = ("python", "go", "sql", "arithmetic"), ("german", "french", "scripture", "dictionary")

Folds = dict[str, list[RecordedPrompts]]


def record() -> tuple[Folds, Folds]:
    """Both halves of every domain's text, run through the bundled model: to learn from, and to measure on."""
    model, tokenizer = evenmoe.load_bundled("text"), evenmoe.bundled_tokenizer("text")
    recorded = []
    for half in halves(heldout_texts()):
        by_domain = {}
        for domain, text in half.items():
            number = num_fitting({domain: text}, tokenizer, WINDOW)
            windows = cut_windows({domain: text}, tokenizer, num_windows=number, window_tokens=WINDOW)
            by_domain[domain] = record_prompts(model, [window.ids_S for window in windows])
        recorded.append(by_domain)
    return recorded[0], recorded[1]


def prior_of(learning: Folds, domains: Sequence[str]) -> TokenPrior:
    """A prior of some domains: the first folds of all of them are one fold, and so on."""
    return fit_token_prior(
        [_joined(parts) for parts in zip(*(learning[domain] for domain in domains), strict=True)]
    )


def _joined(parts: Sequence[RecordedPrompts]) -> RecordedPrompts:
    return RecordedPrompts(
        prompts=tuple(ids_T for part in parts for ids_T in part.prompts),
        load_NLE=np.concatenate([part.load_NLE for part in parts]),
        counts=sum_counts([part.counts for part in parts]),
    )


def leave_one_out(learning: Folds, measuring: Folds) -> None:
    print("domain      tokens seen  calibrated  uncalibrated   mean   all learned")
    everything = prior_of(learning, list(learning))
    for domain in learning:
        prior = prior_of(learning, [other for other in learning if other != domain])
        truth = _joined(measuring[domain])
        plain = prior.replace(calibration=None)
        scores = [_score(one, truth) for one in (prior, plain, everything)]
        mean = float(np.mean([cosine(prior.mean_LE, load_LE).mean() for load_LE in truth.load_NLE]))
        seen = float(np.mean([prior.coverage(ids_T) for ids_T in truth.prompts]))
        print(
            f"{domain:11} {seen:11.1%}  {scores[0]:10.3f}  {scores[1]:12.3f}  {mean:5.3f}  {scores[2]:12.3f}"
        )


def _score(prior: TokenPrior, truth: RecordedPrompts) -> float:
    return float(np.mean([cosine(prior.predict(ids_T), load_LE) for ids_T, load_LE in _pairs(truth)]))


def _pairs(truth: RecordedPrompts) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return list(zip(truth.prompts, truth.load_NLE, strict=True))


def shrinkage(learning: Folds, measuring: Folds) -> None:
    print("\nshrinkage   calibrated  uncalibrated")
    folds = [_joined(parts) for parts in zip(*learning.values(), strict=True)]
    truth = _joined([part for parts in measuring.values() for part in parts])
    for weight in (0.1, 0.5, 2.0, 8.0):
        prior = fit_token_prior(folds, shrinkage=weight)
        scores = (_score(one, truth) for one in (prior, prior.replace(calibration=None)))
        print(f"{weight:9}   " + "  ".join(f"{score:10.3f}" for score in scores))


def lengths(learning: Folds, measuring: Folds) -> None:
    """A causal model routes the first tokens of a prompt as it does without the rest."""
    print("\ntokens of a prompt   calibrated  uncalibrated")
    model = evenmoe.load_bundled("text")
    prior = prior_of(learning, list(learning))
    prompts = [ids_T for parts in measuring.values() for part in parts for ids_T in part.prompts][::3]
    for length in (8, 32, 128):
        truth = _joined(record_prompts(model, [ids_T[:length] for ids_T in prompts]))
        scores = (_score(one, truth) for one in (prior, prior.replace(calibration=None)))
        print(f"{length:18}   " + "  ".join(f"{score:10.3f}" for score in scores))


def feedback(learning: Folds, measuring: Folds, requests: int, seed: int) -> None:
    truth = {domain: _pairs(_joined(measuring[domain])) for domain in measuring}
    streams = {
        "changes": (FIRST, [*_draw(FIRST, requests, seed), *_draw(THEN, requests, seed + 1)]),
        "as learned": (tuple(learning), _draw(tuple(learning), 2 * requests, seed)),
    }
    print(
        "\nstream      feedback      predicted: first half, second half   corrected: first half, second half"
    )
    for name, (domains, stream) in streams.items():
        prior = prior_of(learning, domains)
        for by_topic in (False, True):
            corrected = Feedback(prior)
            scores = []
            for domain, share in stream:
                ids_T, load_LE = truth[domain][int(share * len(truth[domain]))]
                topic = domain if by_topic else None
                guesses = prior.predict(ids_T), corrected.predict(ids_T, topic)
                scores.append([float(cosine(guess, load_LE).mean()) for guess in guesses])
                corrected.observe(ids_T, load_LE, topic)
            first, second = np.array(scores[:requests]).mean(0), np.array(scores[requests:]).mean(0)
            kind = "by topic" if by_topic else "of all"
            print(
                f"{name:11} {kind:12}  {first[0]:21.3f} {second[0]:12.3f}  {first[1]:21.3f} {second[1]:12.3f}"
            )


def _draw(domains: Sequence[str], requests: int, seed: int) -> list[tuple[str, float]]:
    """Domains at random, and which of the domain's windows, as a share from 0 to 1."""
    rng = np.random.default_rng(seed)
    return [(domains[rng.integers(len(domains))], float(rng.random())) for _ in range(requests)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300, help="requests of each half of a stream")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    learning, measuring = record()
    leave_one_out(learning, measuring)
    shrinkage(learning, measuring)
    lengths(learning, measuring)
    feedback(learning, measuring, options.requests, options.seed)


if __name__ == "__main__":
    main()
