"""run_server: from options to a server that answers, until it is told to stop or its engine dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.checkpoints import checkpoint_of
from evenmoe.models.loading import load, load_tokenizer
from evenmoe.serving.config import SchedulingConfig, ServingConfig
from evenmoe.serving.transformers.server.engine import Engine
from evenmoe.serving.transformers.server.options import ServerOptions
from evenmoe.serving.transformers.server.server import Server
from evenmoe.serving.transformers.server.trial import check_generates


def run_server(options: ServerOptions, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve a model until SIGTERM or SIGINT; in another thread than the main one, until the engine dies.

    ready: called once with the address when requests are answered.
    On a signal new requests are refused with 503 and accepted ones finish, for `shutdown_timeout_s` at most; what is
    open then is answered with an error. A second signal does not wait.
    Raises ConfigError, FileNotFoundError, FileFormatError and UnsupportedModelError for what cannot be served;
    EngineError where the engine died, or accepted requests did not finish in time.
    """
    checkpoint = checkpoint_of(options.model)
    tokenizer = load_tokenizer(checkpoint)
    model = load(checkpoint, dtype=options.dtype, device=options.device)
    engine = make_engine(model, options)
    try:
        asyncio.run(Server(engine, tokenizer, options).serve(ready))
    finally:
        engine.stop()


def make_engine(model: Any, options: ServerOptions) -> Engine:
    """An engine for a model that is loaded. Raises as `run_server` does of what cannot be served."""
    if not options.schedules:
        options = replace(options, serving=_in_order_of_arrival(options.serving))
    check_generates(model)
    return Engine(model, options, most_tokens=_most_tokens(model, options.max_model_len))


def _most_tokens(model: Any, asked: int | None) -> int:
    """Tokens of a prompt and its answer together. Raises ConfigError for more than the model has positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int):
        raise UnsupportedModelError("the model's configuration has no max_position_embeddings")
    if asked is not None and not 2 <= asked <= positions:
        raise ConfigError("max_model_len", asked, f"from 2 to the model's {positions} positions")
    return asked or positions


def _in_order_of_arrival(serving: ServingConfig) -> ServingConfig:
    return ServingConfig(
        routing=serving.routing, scheduling=SchedulingConfig(strategy="fcfs"), metrics=serving.metrics
    )
