"""Fixtures of the lm-eval tests."""

from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (the extra `eval`)")

from tests.evaluation.lm_eval.toys import write_tasks


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("toy-tasks"))


@pytest.fixture
def no_network(monkeypatch):
    """Opening a connection, or looking up a host, fails the test."""
    import socket

    def refuse(*arguments, **_):
        raise AssertionError(f"the network was touched: {arguments[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
