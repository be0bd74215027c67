"""docs/assignment.md, "What is left": pairs over capacity by method, counted without running a policy.

Shape letters: B requests of a batch, D devices, L layers, E experts.

Run: python runs/assignment_floor.py --prior token_prior.npz --text second/*.txt   (runs/assignment.sh does)
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import evenmoe
from evenmoe.evaluation.batches import make_batches
from evenmoe.evaluation.texts import cut_windows, num_fitting, read_texts
from evenmoe.loads import peak_to_mean
from evenmoe.loads.capacity import capacity
from evenmoe.models.prediction import true_loads
from evenmoe.routing import Baseline
from evenmoe.scheduling import assign
from evenmoe.scheduling.assignment import share_load
from evenmoe.scheduling.predictors import read_token_prior

Loads = NDArray[np.float64]
Devices = NDArray[np.int64]
TOP_K = 4


def over(load_LE: Loads, limit: int) -> float:
    """Pairs beyond `limit` in any entry, of one share or of several."""
    return float(np.maximum(load_LE - limit, 0.0).sum())


def searched(load_BLE: Loads, device_B: Devices, num_devices: int, limit: int) -> Devices:
    """Another search, from `device_B` on: exchanges while they lower what is over the capacity itself."""
    device_B = device_B.copy()
    share_DLE = share_load(load_BLE.reshape(len(load_BLE), -1), device_B, num_devices).reshape(
        num_devices, *load_BLE.shape[1:]
    )
    over_D = np.maximum(share_DLE - limit, 0.0).sum((1, 2))
    has_gained = True
    while has_gained:
        has_gained = False
        for one in range(len(load_BLE)):
            here = device_B[one]
            others = np.flatnonzero(device_B != here)
            more_BLE = load_BLE[others] - load_BLE[one]
            here_B = np.maximum(share_DLE[here] + more_BLE - limit, 0.0).sum((1, 2))
            there_B = np.maximum(share_DLE[device_B[others]] - more_BLE - limit, 0.0).sum((1, 2))
            change_B = here_B + there_B - over_D[here] - over_D[device_B[others]]
            best = int(change_B.argmin())
            if change_B[best] >= -1e-6:
                continue
            other, there = others[best], device_B[others[best]]
            share_DLE[here] += more_BLE[best]
            share_DLE[there] -= more_BLE[best]
            over_D[here], over_D[there] = here_B[best], there_B[best]
            device_B[one], device_B[other] = there, here
            has_gained = True
    return device_B


def compare(load_BLE: Loads, predicted_BLE: Loads, num_devices: int, gamma: float) -> dict[str, float]:
    """Share of the batch's pairs over capacity under each way to assign it, and under none: what no way avoids."""
    num_requests, _, num_experts = load_BLE.shape
    tokens = load_BLE[:, 0].sum() / TOP_K
    limit = capacity(gamma, int(tokens) // num_devices, TOP_K, num_experts)
    rng = np.random.default_rng(0)

    def methods(known_BLE: Loads) -> dict[str, Callable[[], Devices]]:
        known_BX = known_BLE.reshape(num_requests, -1)
        return {
            "arrival": lambda: assign(known_BX, num_devices=num_devices, method="arrival"),
            "random": lambda: assign(known_BX, num_devices=num_devices, method="random", rng=rng),
            "balanced": lambda: assign(known_BX, num_devices=num_devices),
            "searched": lambda: searched(
                known_BLE, assign(known_BX, num_devices=num_devices), num_devices, limit
            ),
        }

    found: dict[str, float] = {}
    for name, known_BLE in (("true", load_BLE), ("predicted", predicted_BLE)):
        for method, make in methods(known_BLE).items():
            key = f"{method}, {name}" if method in ("balanced", "searched") else method
            start = time.process_time()
            device_B = make()
            found[f"{key} ms"] = 1e3 * (time.process_time() - start)
            share_DX = share_load(load_BLE.reshape(num_requests, -1), device_B, num_devices)
            found[key] = over(share_DX, limit) / load_BLE.sum()
    found["floor"] = over(load_BLE.sum(0), limit * num_devices) / load_BLE.sum()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--gamma", type=float, default=1.5)
    parser.add_argument("--window-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64, 128])
    args = parser.parse_args()

    model, tokenizer = evenmoe.load_bundled("text"), evenmoe.bundled_tokenizer("text")
    texts, prior = read_texts(args.text), read_token_prior(args.prior)
    fitting = num_fitting(texts, tokenizer, args.window_tokens)
    columns = [
        "arrival",
        "random",
        "balanced, predicted",
        "searched, predicted",
        "balanced, true",
        "searched, true",
    ]
    print("| batch | " + " | ".join([*columns, "no way is under"]) + " | ms, balanced | ms, searched |")
    print("|" + "---|" * (len(columns) + 4))
    for batch_size in args.batch_sizes:
        num_windows = fitting // batch_size * batch_size
        windows = cut_windows(texts, tokenizer, num_windows=num_windows, window_tokens=args.window_tokens)
        rows, total_LE = defaultdict(list), np.zeros((prior.num_layers, prior.num_experts))
        with evenmoe.attach(model, Baseline()) as attached:
            for batch in make_batches(windows, batch_size, "by-domain", seed=0):
                ids = [window.ids_S for window in batch]
                load_BLE = true_loads(model, attached, ids).astype(np.float64)
                total_LE += load_BLE.sum(0)
                predicted_BLE = np.stack([prior.predict(ids_S) for ids_S in ids])
                for key, value in compare(load_BLE, predicted_BLE, args.devices, args.gamma).items():
                    rows[key].append(value)
        shares = " | ".join(f"{100 * np.mean(rows[key]):.2f}" for key in (*columns, "floor"))
        times = " | ".join(f"{np.median(rows[f'{key}, true ms']):.1f}" for key in ("balanced", "searched"))
        print(f"| {batch_size} | {shares} | {times} |", flush=True)
    peaks = ", ".join(f"{peak:.2f}" for peak in peak_to_mean(total_LE))
    print(f"Busiest expert over the mean, all windows together, by layer: {peaks}")


if __name__ == "__main__":
    main()
