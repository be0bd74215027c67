"""Which engines are installed, and which one is taken."""

from __future__ import annotations

from importlib.util import find_spec

from evenmoe.errors import ConfigError, check_choice
from evenmoe.serving.launch.options import ENGINES, Engine

NEEDS: dict[Engine, tuple[str, ...]] = {
    "vllm": ("vllm",),
    "transformers": ("transformers", "fastapi", "uvicorn"),
}
REMEDIES: dict[Engine, str] = {
    "vllm": "pip install 'evenmoe[serve]' (on a GPU machine: 'evenmoe[serve-gpu]')",
    "transformers": "pip install 'evenmoe[serve-transformers]'",
}


def missing(engine: Engine) -> list[str]:
    """Return the packages that an engine needs and that are not installed."""
    return [package for package in NEEDS[engine] if find_spec(package) is None]


def choose_engine(asked: str | None) -> Engine:
    """Return the engine that was asked for; without a wish vLLM, else transformers, by what is installed.

    Raises ConfigError saying what to install.
    """
    if asked is None:
        for engine in ENGINES:
            if not missing(engine):
                return engine
        raise ConfigError("engine", None, " or ".join(f"{name}: {REMEDIES[name]}" for name in ENGINES))
    check_choice("engine", asked, ENGINES)
    chosen = next(name for name in ENGINES if name == asked)
    if missing(chosen):
        raise ConfigError(
            "engine", asked, f"installed: {REMEDIES[chosen]} (missing: {', '.join(missing(chosen))})"
        )
    return chosen
