"""An OpenAI-compatible server on transformers' continuous batching, for machines without vLLM."""

from evenmoe.serving.transformers.server.options import ServerOptions, options_of, read_options
from evenmoe.serving.transformers.server.run import make_engine, run_server
from evenmoe.serving.transformers.server.server import Server

__all__ = ["Server", "ServerOptions", "make_engine", "options_of", "read_options", "run_server"]
