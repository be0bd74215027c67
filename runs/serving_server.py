"""A server under measurement: `evenmoe serve` as a child process, its memory, and a stop that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STARTING_S = 600.0
STOPPING_S = 90.0


class Server:
    """A server that answers at `url`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process, self.url = process, url

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def rss_bytes(self) -> dict[str, int]:
        """Resident memory of each of its processes."""
        found: dict[str, int] = {}
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            for process in (top, *top.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    found[f"{_called(process)}:{process.pid}"] = process.memory_info().rss
        return found

    def wait_until_ready(self, log: Path) -> None:
        """Raises RuntimeError if it ends first, or takes longer than STARTING_S."""
        deadline = time.monotonic() + STARTING_S
        while time.monotonic() < deadline:
            if not self.is_running:
                break
            with (
                suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(f"{self.url}/health", timeout=5),
            ):
                return
            time.sleep(0.3)
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the server did not come to answer; the end of {log}:\n{last}")

    def stop(self) -> int:
        """Ask it to stop as an operator would; its exit status."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOPPING_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End it and all its children."""
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.kill()


@contextmanager
def served(arguments: Sequence[str], log: Path) -> Iterator[Server]:
    """`evenmoe serve ARGUMENTS` on a free port, ready; ended with the block. Its output goes to `log`."""
    port = _free_port()
    head, *engine_arguments = _split(arguments)
    command = [program(), "serve", *head, "--port", str(port)]
    for part in engine_arguments:
        command += ["--", *part]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        server = Server(process, f"http://127.0.0.1:{port}")
        try:
            server.wait_until_ready(log)
            yield server
        finally:
            server.stop()


def program() -> str:
    """The `evenmoe` of the Python that runs this."""
    return str(Path(sys.executable).with_name("evenmoe"))


def _split(arguments: Sequence[str]) -> list[list[str]]:
    words = list(arguments)
    if "--" not in words:
        return [words]
    place = words.index("--")
    return [words[:place], words[place + 1 :]]


def _called(process: psutil.Process) -> str:
    """The name that an engine gives its process, else the program's."""
    words = process.cmdline()
    return words[0].rpartition("/")[2] if words else process.name()


def _free_port() -> int:
    with socket.socket() as claimed:
        claimed.bind(("127.0.0.1", 0))
        return int(claimed.getsockname()[1])
