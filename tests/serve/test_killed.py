"""A process of vLLM that is killed behind `evenmoe serve`: no server runs beside it, as starting one is work enough."""

from __future__ import annotations

import os
import signal
import threading

import pytest

pytest.importorskip("vllm")

from tests.serve.faults import Door, connected, read_until, request_bytes
from tests.serve.serving_process import serving

pytestmark = pytest.mark.serve
PATIENCE_S = 30.0


@pytest.mark.parametrize("victim", ["worker", "engine_core"])
def test_a_killed_process_ends_the_server_and_is_named(victim):
    """The one open client is told; the command exits with a failure, says which process died, and leaves none."""
    with serving("--policy", "token_drop:isolation=strict", "--dtype", "float32") as server:
        door = Door(url=server.url, model="bundled:text", long_tokens=900)
        with connected(door) as line:
            line.sendall(request_bytes(door))
            read_until(line, b"data: ")
            said: list[bytes] = []
            listener = threading.Thread(target=lambda: said.append(_rest(line)))
            listener.start()
            os.kill(getattr(server, victim)(), signal.SIGKILL)
            listener.join(PATIENCE_S)
        assert b'"error"' in b"".join(said), b"".join(said)[-300:]
        assert server.wait() == 1
        last = [row for row in server.log.splitlines() if row.startswith("evenmoe:")][-12:]
        assert any("unexpectedly" in row for row in last), last
        assert not server.processes()


def _rest(line) -> bytes:
    """Everything until the server closes."""
    heard = b""
    try:
        while piece := line.recv(4096):
            heard += piece
    except ConnectionError:
        pass
    return heard
