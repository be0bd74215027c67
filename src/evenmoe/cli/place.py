"""`evenmoe place`: where the experts go, every method side by side, judged on domains it never saw."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from evenmoe.cli.console import progress_bar, stdout
from evenmoe.cli.options import JsonOption, SeedOption
from evenmoe.errors import check_choice

if TYPE_CHECKING:
    from evenmoe.placement.comparison import MethodResult
    from evenmoe.placement.domain_loads import DomainLoads
    from evenmoe.placement.methods import FitSettings, Method

_MOST_DOMAINS_SHOWN = 16
_LEAST_GAIN = 0.0005
"""Differences under this are not worth a sentence: the tables have three digits."""


def place(
    loads: Annotated[Path, typer.Option(help="Loads by domain, as `evenmoe profile` writes them.")],
    devices: Annotated[int, typer.Option(help="Expert-parallel devices.")],
    replicas: Annotated[
        int | None,
        typer.Option(
            help="Redundant copies of experts per layer. Default: methods with copies are shown with one per "
            "device, and written only if asked for."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="The method whose placement is written; auto: the lowest held-out factor.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The placement file to write.")] = Path("out/placement.json"),
    noise: Annotated[
        float,
        typer.Option(help="How far the vector methods expect traffic to stray from the profile; 0: not."),
    ] = 0.2,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Place experts on devices so that no device has to be waited for: methods side by side, and a file to use.

    The fitted factor is on the loads given; the held-out factor is on domains that the fit did not see.

    Example: evenmoe place --loads out/profile/loads.json --devices 8 --out placement.json
    """
    from evenmoe.loads import read_loads
    from evenmoe.placement import write_placement
    from evenmoe.placement.comparison import compare_methods, recommend
    from evenmoe.placement.domain_loads import DomainLoads
    from evenmoe.placement.methods import METHODS, FitSettings

    check_choice("method", method, ("auto", *METHODS))
    settings = FitSettings(
        num_devices=devices, replicas=devices if replicas is None else replicas, noise=noise, seed=seed
    )
    domains = DomainLoads.of(read_loads(loads))
    methods = _methods(settings, method)
    with progress_bar() as progress:
        task = progress.add_task("fitting", total=None)
        results = compare_methods(
            domains,
            methods,
            settings,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    best = recommend(results, with_copies=replicas is not None)
    written = best if method == "auto" else next(result for result in results if result.method == method)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_placement(written.placement, out)
    _print_tables(domains, settings, results, best)
    for line in _advice(results, best, written):
        stdout.print(line, highlight=False)
    stdout.print(f"Placement: {out} ({written.method})", soft_wrap=True, highlight=False, markup=False)
    if json:
        config = {"loads": str(loads), "devices": devices, "replicas": settings.replicas, "noise": noise}
        config |= {"seed": seed, "method": method, "out": str(out), "tags": list(domains.tags)}
        _write_json(json, config, results, best, written)


def _methods(settings: FitSettings, method: str) -> list[Method]:
    """All of them; without replicas, not those that make copies unless one is asked for (it will be refused)."""
    from evenmoe.placement.methods import METHODS, WITH_COPIES

    return [name for name in METHODS if settings.replicas > 0 or name not in WITH_COPIES or name == method]


def _print_tables(
    domains: DomainLoads, settings: FitSettings, results: list[MethodResult], best: MethodResult
) -> None:
    num_layers, num_domains = len(domains.layers), len(domains.tags)
    title = f"Straggler factor on {settings.num_devices} devices: mean of {num_layers} layers, {num_domains} domains"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for name in ("copies per layer", "fitted", "held out", "fit s"):
        table.add_column(name, justify="right")
    for result in results:
        mark = " *" if result is best else ""
        copies = str(result.placement.num_copies(0))
        held_out = _figure(result.heldout_straggler_factor)
        fitted = _figure(result.fitted_straggler_factor)
        table.add_row(result.method + mark, copies, fitted, held_out, f"{result.seconds:.2f}")
    stdout.print(table)
    if best.heldout_by_domain and num_domains <= _MOST_DOMAINS_SHOWN:
        stdout.print(_domain_table(domains, results))


def _domain_table(domains: DomainLoads, results: list[MethodResult]) -> Table:
    table = Table(title="Held out, by the domain left out", title_justify="left")
    table.add_column("domain")
    for result in results:
        table.add_column(result.method.replace("_", "_\n"), justify="right", no_wrap=True)
    for tag in domains.tags:
        table.add_row(escape(tag), *(_figure((result.heldout_by_domain or {})[tag]) for result in results))
    return table


def _advice(results: list[MethodResult], best: MethodResult, written: MethodResult) -> list[str]:
    """What the figures mean, in sentences; only those that apply."""
    by_method = {result.method: result for result in results}
    held_out = {name: result.heldout_straggler_factor for name, result in by_method.items()}
    if best.heldout_straggler_factor is None:
        lines = [
            f"Held out: {_NO_HELD_OUT}.",
            f"* {best.method} is the most even on the domain it was fitted to; nothing is known of others.",
        ]
    else:
        lines = [f"* Recommended: {best.method}, the most even on domains that the fit did not see."]
        vector, balanced = held_out["vector"], held_out["load_balanced"]
        if vector is not None and balanced is not None and vector > balanced + _LEAST_GAIN:
            lines.append(
                f"On an unseen domain vector is worse here than load_balanced: {vector:.3f} against {balanced:.3f}."
            )
    copied = best.placement.is_replicated
    comparable = [result for result in results if result.placement.is_replicated == copied]
    fitted = min(comparable, key=lambda result: result.fitted_straggler_factor)
    if fitted.fitted_straggler_factor < best.fitted_straggler_factor - _LEAST_GAIN:
        lines.append(
            f"For traffic of the profiled domains alone, {fitted.method} is more even: "
            f"{fitted.fitted_straggler_factor:.3f} against {best.fitted_straggler_factor:.3f} (fitted)."
        )
    if not copied and (cheaper := _better_with_copies(results, best)):
        extra = cheaper.placement.num_copies(0) - best.placement.num_copies(0)
        lines.append(
            f"With --replicas {extra}, memory for that many more experts per layer, {cheaper.method} would have "
            f"{cheaper.judged_straggler_factor:.3f} against {best.judged_straggler_factor:.3f}."
        )
    if written is not best:
        lines.append(f"{written.method} was asked for; {best.method} is recommended.")
    return lines


_NO_HELD_OUT = "not known, as the loads have only one domain to fit to; profile at least two"


def _better_with_copies(results: list[MethodResult], best: MethodResult) -> MethodResult | None:
    copied = [result for result in results if result.placement.is_replicated]
    found = min(copied, key=lambda result: result.judged_straggler_factor, default=best)
    return found if found.judged_straggler_factor < best.judged_straggler_factor - _LEAST_GAIN else None


def _figure(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.3f}"


def _write_json(
    path: Path, config: dict[str, Any], results: list[MethodResult], best: MethodResult, written: MethodResult
) -> None:
    from evenmoe.evaluation.results import versions

    rows = [
        {
            "method": result.method,
            "fitted_straggler_factor": result.fitted_straggler_factor,
            "heldout_straggler_factor": result.heldout_straggler_factor,
            "seconds": result.seconds,
            "copies_per_layer": result.placement.num_copies(0),
            "fitted_by_domain": result.fitted_by_domain,
            "heldout_by_domain": result.heldout_by_domain,
        }
        for result in results
    ]
    body: dict[str, Any] = {
        "config": config,
        "versions": versions(),
        "recommended": best.method,
        "written": written.method,
    }
    body |= {"heldout_missing": _NO_HELD_OUT if best.heldout_straggler_factor is None else None, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json_module.dumps(body, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
