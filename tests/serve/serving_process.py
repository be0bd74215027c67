"""A running `evenmoe serve`, for tests: started on a free port, watched, and stopped with nothing left behind."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import pytest

START_S = 240.0
STOP_S = 60.0
READY = re.compile(r"Ready after .*: (http://\S+)")
SMALL = ("--enforce-eager", "--max-num-batched-tokens", "1024")
"""What makes vLLM start fast on few cores."""
ENVIRONMENT = dict(os.environ)
"""As it was before an engine in this process put its own settings into it."""


class ServingProcess:
    """One `evenmoe serve`. `log` is all that it has said; the engine's log is in it."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from evenmoe.cli.main import run; run()", *arguments],
            env={**ENVIRONMENT, "COLUMNS": "200", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_the_tests,
        )
        self.url = ""
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id of `evenmoe serve` itself."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything said so far."""
        return "\n".join(self._lines)

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self.process.poll()

    def wait_until_ready(self, timeout_s: float = START_S) -> None:
        """Block until the server answers. Raises AssertionError with the log if it ends or takes longer."""
        deadline = time.monotonic() + timeout_s
        while not self._ready.wait(0.2):
            assert self.status is None, f"ended with {self.status}:\n{self.log}"
            assert time.monotonic() < deadline, f"not ready after {timeout_s} s:\n{self.log}"

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_S) -> int:
        """Signal `evenmoe serve` and return its exit status."""
        if self.status is None:
            self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """The exit status, once it has ended by itself."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.log}") from None
        self._reader.join(5.0)
        return status

    def processes(self) -> dict[int, str]:
        """Every living process below `evenmoe serve`, or that it left: id -> command line or vLLM's name for it.

        Found by the id of the session, which all of them share.
        """
        return {pid: name for pid, name in _session(self.pid).items() if pid != self.pid}

    def worker(self) -> int:
        """The process id of vLLM's worker."""
        return next(pid for pid, name in self.processes().items() if "Worker" in name)

    def engine_core(self) -> int:
        """The process id of vLLM's engine core."""
        return next(pid for pid, name in self.processes().items() if "EngineCore" in name)

    def request(self, path: str, body: Any = None, timeout_s: float = 60.0) -> tuple[int, Any]:
        """Status and parsed answer of a GET, or of a POST of `body`; plain text where it is not JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def complete(self, prompt: str, max_tokens: int = 16, **settings: Any) -> str:
        """A greedy completion's text. Raises AssertionError for anything but 200."""
        body = {
            "model": "bundled:text",
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
        } | settings
        status, answer = self.request("/v1/completions", body)
        assert status == 200, (status, answer)
        return str(answer["choices"][0]["text"])

    def kill(self) -> None:
        """End it and everything below it, however it is doing."""
        left = {self.pid, *self.processes()}
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self._lines.append(line)
            if found := READY.search(line):
                self.url = found[1]
                self._ready.set()


@contextmanager
def serving(
    *arguments: str,
    model: str = "bundled:text",
    engine: str = "vllm",
    environment: Mapping[str, str] | None = None,
    engine_arguments: tuple[str, ...] = SMALL,
    ready: bool = True,
) -> Iterator[ServingProcess]:
    """Run `evenmoe serve MODEL ARGUMENTS -- ENGINE_ARGUMENTS` on a free port, ready unless told otherwise.

    Afterwards nothing of it is left, also if the test failed.
    """
    command = ["serve", model, "--engine", engine, "--port", "0", *arguments]
    if engine == "vllm":
        command += ["--", *engine_arguments]
    added = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
    with TemporaryDirectory(prefix="served-", ignore_cleanup_errors=True) as scratch:
        process = ServingProcess(command, {"TMPDIR": scratch, **added})
        try:
            if ready:
                process.wait_until_ready()
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def server() -> Iterator[ServingProcess]:
    """The bundled model behind vLLM, everything counted and nothing limited, shared by all tests that only ask."""
    pytest.importorskip("vllm")
    with serving() as process:
        yield process


def _end_with_the_tests() -> None:
    """Have the server stopped should the tests be killed before they can do it."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _session(leader: int) -> dict[int, str]:
    """Living processes of a session by id, each with its name."""
    from pathlib import Path

    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in ("Z", "X"):
                raw = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = raw.strip()
        except (OSError, ValueError):
            continue
    return found
