"""The tables and figures of docs/multimodal.md: what each policy costs the bundled vision-language model.

Every point is a run of `evenmoe eval --suite multimodal` in a folder of its own; finished points are not run again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenmoe.errors import FileFormatError
from evenmoe.evaluation.checkpoints import checkpoint_of, weights_mark
from evenmoe.evaluation.scoring import EvalConfig, read_eval_result
from evenmoe.evaluation.scoring.evaluations import Evaluation, read_evaluation
from evenmoe.evaluation.scoring.paired import Estimate, mean_of_items, paired_difference
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.evaluation.vision.equal_peak import expert_peak, gamma_for_peak
from evenmoe.evaluation.vision.run import run_scenes
from evenmoe.evaluation.vision.scoring import vision_versions
from evenmoe.evaluation.vision.suites import SUITE, scene_tasks
from evenmoe.loads import ExpertLoads, read_loads
from evenmoe.loads.modality import loads_by_modality

POLICIES = ("token_drop", "expanded_drop", "fill", "random")
"""The last is Token Drop that keeps at random: there the score does not tell text from image."""
MODALITIES = ("uniform", "image-first", "text-first")
GAMMAS = (1.0, 0.5, 1.5, 2.0, 0.25)
"""The one that the findings are about first, so that an interrupted study has it."""
SHORT = ("AR", "CP", "FP-S", "FP-C", "LR", "RR")
"""MMBench's abbreviations of the families, in the order of the set."""
LOW, HIGH = 0.3, 1.2
"""Where to look for the gamma of MACS that meets another policy's peak, in gammas of that policy."""


@dataclass(frozen=True)
class Point:
    """One policy at one gamma."""

    name: str
    spec: PolicySpec
    gamma: float | None


def spec_of(policy: str, modality: str) -> PolicySpec:
    options = {"keep": "random"} if policy == "random" else {}
    options |= {} if modality == "uniform" else {"modality": modality}
    return PolicySpec(name="token_drop" if policy == "random" else policy, options=options)


def points(gammas: Sequence[float]) -> Iterator[Point]:
    yield Point("baseline", PolicySpec(name="baseline"), None)
    for gamma in gammas:
        for policy in POLICIES:
            for modality in MODALITIES:
                yield Point(f"{policy}-{modality}-{gamma:g}", spec_of(policy, modality), gamma)


class Study:
    """Runs points on one model that is loaded once, and reads what they gave."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self._loaded = arguments, None
        self._check_folder()
        self.macs = PolicySpec(
            name="macs", options={"labels": arguments.labels} if arguments.labels else {"rho": 0.0}
        )

    def _check_folder(self) -> None:
        """Refuse a folder with points of other weights, other labels or other versions."""
        labels = self.arguments.labels
        mark = {
            "weights": weights_mark(self.arguments.model),
            "labels": None if labels is None else hashlib.sha256(Path(labels).read_bytes()).hexdigest(),
            "versions": vision_versions(),
        }
        path = self.arguments.out / "study.json"
        if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(mark)):
            raise SystemExit(
                f"{path} is of other weights, labels or versions: remove the folder, or give another"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mark, indent=1) + "\n")

    def config(self, point: Point) -> EvalConfig:
        arguments = self.arguments
        return EvalConfig(
            model=arguments.model, suite=SUITE, tasks=tuple(scene_tasks()), policy=point.spec, gamma=point.gamma,
            num_devices=arguments.devices, batch_size=arguments.batch_size, limit=arguments.limit,
            phases=arguments.phases,
        )  # fmt: skip

    def evaluation(self, point: Point) -> Evaluation:
        folder, config = self.arguments.out / point.name, self.config(point)
        if not self._finished(folder, config):
            print(f"... {point.name}", file=sys.stderr, flush=True)
            run_scenes(config, folder, loaded=self._model())
        return read_evaluation(folder)

    def loads(self, evaluation: Evaluation) -> ExpertLoads:
        return read_loads(evaluation.folder / str(evaluation.result.loads_file))

    def macs_at(self, peak_of: Callable[[ExpertLoads], float], target: float, gamma: float) -> Evaluation:
        """MACS at the gamma at which its peak is the target; `gamma` is that of the policy to be met."""

        def run(gamma: float) -> Evaluation:
            return self.evaluation(Point(f"macs-{gamma:.6g}", self.macs, gamma))

        found = gamma_for_peak(
            lambda g: peak_of(self.loads(run(g))), target, low=LOW * gamma, high=HIGH * gamma
        )
        return run(found.gamma)

    def _finished(self, folder: Path, config: EvalConfig) -> bool:
        try:
            result = read_eval_result(folder)
        except (FileNotFoundError, FileFormatError):
            return False
        return result.config == config.model_dump(mode="json")

    def _model(self) -> Any:
        if self._loaded is None:
            from evenmoe.models.loading import load
            from evenmoe.models.processing import load_processor

            path = checkpoint_of(self.arguments.model)
            self._loaded = _seeing_once(load(path, dtype="float32")), _EncodingOnce(load_processor(path))
        return self._loaded


def _seeing_once(model: Any) -> Any:
    """Compute the vision tower's output once for each batch: it has no MoE layer, so no policy changes it."""
    tower, seen = model.model.visual, {}
    forward = tower.forward

    def remembered(pixels: Any, **kwargs: Any) -> Any:
        key = hashlib.sha256(pixels.numpy().tobytes()).digest()
        if key not in seen:
            seen[key] = forward(pixels, **kwargs)
        return copy.copy(seen[key])  # its caller writes into it

    tower.forward = remembered
    return model


class _EncodingOnce:
    """A processor that remembers what it made of each batch: every point has the same batches."""

    def __init__(self, processor: Any) -> None:
        self._processor, self._made = processor, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *, text: list[str], images: list[list[Any]], **options: Any) -> Any:
        key = hashlib.sha256(repr((text, options)).encode())
        for image in (image for row in images for image in row):
            key.update(image.tobytes())
        if key.digest() not in self._made:
            self._made[key.digest()] = self._processor(text=text, images=images, **options)
        return copy.copy(self._made[key.digest()])


def all_scores(evaluation: Evaluation) -> list[float]:
    return [score for task in scene_tasks() for score in evaluation.scores(task)]


def difference(one: Evaluation, other: Evaluation) -> Estimate:
    """Mean of one policy's scores minus another's, over the items of all families."""
    return paired_difference(all_scores(one), all_scores(other)).difference


def percent(estimate: Estimate, sign: bool = True) -> str:
    error = "" if estimate.stderr is None else f" ± {100 * estimate.stderr:.1f}"
    return f"{100 * estimate.value:{'+' if sign else ''}.1f}{error}"


def dropped(loads: ExpertLoads) -> tuple[float, float]:
    """The share of image tokens' and of text tokens' top-k assignments that did not run."""
    parts = loads_by_modality(loads)
    image, text = (1 - part.kept_L.sum() / part.before_LE.sum() for part in (parts.image, parts.text))
    return float(image), float(text)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_by_gamma(base: Evaluation, found: dict[str, Evaluation], gammas: Sequence[float]) -> str:
    ordered = sorted(gammas, reverse=True)
    names = [f"{policy}-{modality}" for policy in POLICIES for modality in MODALITIES]
    rows = [["no limit", *(percent(mean_of_items(all_scores(base)), sign=False) for _ in ordered)]]
    for name in names:
        cells = []
        for gamma in ordered:
            one = found[f"{name}-{gamma:g}"]
            cells.append(f"{100 * (one.result.mean or 0):.1f} ({percent(difference(one, base))})")
        rows.append([name.replace("_", " ").replace("-", ", ", 1), *cells])
    return markdown(["policy, modality", *(f"γ {gamma:g}" for gamma in ordered)], rows)


def table_by_family(study: Study, base: Evaluation, rows: Sequence[Evaluation]) -> str:
    lines = []
    for one in [base, *rows]:
        cells = [f"{100 * task.score:.1f}" for task in one.result.tasks]
        change = "" if one is base else percent(difference(one, base))
        image, text = dropped(study.loads(one))
        loads = study.loads(one)
        lines.append([
            one.result.label, *cells, f"{100 * (one.result.mean or 0):.1f}", change,
            f"{100 * image:.0f} / {100 * text:.0f}",
            f"{loads.straggler_factor:.2f}", f"{expert_peak(loads):.2f}",
        ])  # fmt: skip
    header = ["policy", *SHORT, "mean", "change", "dropped, image / text", "straggler", "peak expert"]
    return markdown(header, lines)


@dataclass(frozen=True)
class Finding:
    """A claim that one policy scores higher than, or at least as high as, another."""

    claim: str
    better: str
    worse: str
    strict: bool


def findings(gamma: float) -> Iterator[Finding]:
    at = f"{gamma:g}"
    for policy in POLICIES:
        for better, worse in (
            ("image-first", "uniform"),
            ("image-first", "text-first"),
            ("uniform", "text-first"),
        ):
            claim = f"{policy}: {better} above {worse}"
            yield Finding(claim, f"{policy}-{better}-{at}", f"{policy}-{worse}-{at}", True)
    for policy in ("expanded_drop", "fill"):
        for modality in MODALITIES:
            claim = f"{modality}: {policy} at least token_drop"
            yield Finding(claim, f"{policy}-{modality}-{at}", f"token_drop-{modality}-{at}", False)
    yield Finding("token_drop: score above random", f"token_drop-uniform-{at}", f"random-uniform-{at}", True)


def verdict(finding: Finding, estimate: Estimate) -> str:
    """Agrees or disagrees from two standard errors on; nearer to 0 neither is shown, which is enough for "at least"."""
    if not estimate.stderr:
        return "no difference" if estimate.value == 0 else "too few items"
    z = estimate.value / estimate.stderr
    if z <= -2:
        return f"disagrees (z = {z:.1f})"
    if z >= 2:
        return f"agrees (z = {z:.1f})"
    return f"{'not shown' if finding.strict else 'agrees: no difference shown'} (z = {z:.1f})"


def table_of_findings(found: dict[str, Evaluation], gamma: float) -> str:
    rows = []
    for finding in findings(gamma):
        estimate = difference(found[finding.better], found[finding.worse])
        rows.append([finding.claim.replace("_", " "), percent(estimate), verdict(finding, estimate)])
    return markdown([f"γ {gamma:g}: claim", "difference, points", "verdict"], rows)


def table_at_equal_peak(
    study: Study, base: Evaluation, found: dict[str, Evaluation], gammas: Sequence[float]
) -> str:
    """Token Drop in its modalities, and MACS at the gammas that give it uniform Token Drop's physical peaks."""
    rows = []
    for gamma in sorted(gammas, reverse=True):
        shown = {f"token drop, {m}": found[f"token_drop-{m}-{gamma:g}"] for m in MODALITIES}
        uniform = shown["token drop, uniform"]
        loads = study.loads(uniform)
        peaks: dict[str, Callable[[ExpertLoads], float]] = {
            "MACS, equal straggler": lambda loads: loads.straggler_factor,
            "MACS, equal peak expert": expert_peak,
        }
        shown |= {name: study.macs_at(of, of(loads), gamma) for name, of in peaks.items()}
        for name, one in shown.items():
            loads = study.loads(one)
            image, text = dropped(loads)
            rows.append([
                name, f"{one.gamma:.3g}", f"{loads.straggler_factor:.3f}", f"{expert_peak(loads):.2f}",
                f"{100 * image:.0f} / {100 * text:.0f}", f"{100 * (one.result.mean or 0):.1f}",
                percent(difference(one, base)), "" if one is uniform else percent(difference(one, uniform)),
            ])  # fmt: skip
    header = [
        "policy",
        "γ",
        "straggler",
        "peak expert",
        "dropped, image / text",
        "mean",
        "to no limit",
        "to uniform",
    ]
    return markdown(header, rows)


def draw(study: Study, found: dict[str, Evaluation], gamma: float, layer: int) -> Path:
    from evenmoe.reporting.modality_plots import modality_load_profile

    panels = {
        f"Token Drop, {m}, γ {gamma:g}": study.loads(found[f"token_drop-{m}-{gamma:g}"]) for m in MODALITIES
    }
    path: Path = study.arguments.out / "load_profile.png"
    modality_load_profile(panels, layer).savefig(path, dpi=110)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled:vlm")
    parser.add_argument("--out", type=Path, default=Path("out/multimodal"))
    parser.add_argument("--labels", help="labels of the experts for MACS (evenmoe calibrate-modality)")
    parser.add_argument(
        "--gamma", type=float, action="append", help="repeatable; the default is 1, 0.5, 1.5, 2, 0.25"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--phases", default="prefill", help="as the published code does: no limit in decode")
    parser.add_argument("--limit", type=int, help="the first items of each family only")
    parser.add_argument("--layer", type=int, default=2, help="the layer that the figure shows")
    arguments = parser.parse_args()
    gammas = tuple(arguments.gamma or GAMMAS)
    study = Study(arguments)
    found = {point.name: study.evaluation(point) for point in points(gammas)}
    base = found["baseline"]
    parts: list[tuple[str, Callable[[], str]]] = [
        ("Mean over the six families, by gamma", lambda: table_by_gamma(base, found, gammas)),
        *(
            (f"By family, γ {gamma:g}", lambda gamma=gamma: table_by_family(  # type: ignore[misc]
                study, base, [one for name, one in found.items() if name.endswith(f"-{gamma:g}")]))
            for gamma in sorted(gammas, reverse=True)
        ),
        *((f"Findings, γ {gamma:g}", lambda gamma=gamma: table_of_findings(found, gamma)) for gamma in gammas),  # type: ignore[misc]
        ("MACS at equal physical peak", lambda: table_at_equal_peak(study, base, found, gammas)),
    ]  # fmt: skip
    for title, table in parts:
        print(f"\n### {title}\n\n{table()}", flush=True)
    print(f"\nfigure: {draw(study, found, gammas[0], arguments.layer)}")


if __name__ == "__main__":
    main()
