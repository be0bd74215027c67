"""A fake engine under the real supervisor, in a process of its own that tests send signals to."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.client import HTTPException
from pathlib import Path

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
DRIVER = """
import os, sys
from evenmoe.serving.launch.addresses import claim_port, url_of
from evenmoe.serving.launch.process import EngineProcess
from evenmoe.serving.launch.supervising import Supervisor, listening

fake, timeout_s, *modes = sys.argv[1:]
port = claim_port("127.0.0.1", 0)
url = url_of("127.0.0.1", port)

def tell(sentence):
    sys.stdout.write(sentence + "\\n")  # at once: two threads tell
    sys.stdout.flush()

with listening() as asked:
    engine = EngineProcess(
        [sys.executable, "-S", fake, str(port), *modes], os.environ, lambda line: tell("log: " + line)
    )
    tell(f"engine {engine.pid} group {engine.group}")
    supervisor = Supervisor(
        engine, asked, url=url, shutdown_timeout_s=float(timeout_s), tell=tell,
        on_ready=lambda seconds: tell(f"ready {url}"), clean_up_s=0.2,
    )
    sys.exit(supervisor.run())
"""


class Supervised:
    """The supervisor's process: what it has said, its engine, and signals to it."""

    def __init__(self, modes: tuple[str, ...], timeout_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(FAKE_ENGINE), str(timeout_s), *modes],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def find(self, pattern: str, timeout_s: float = 20.0) -> re.Match[str]:
        """Wait until something is said."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"never said {pattern!r}:\n{self.text}"
            time.sleep(0.01)
        return found

    @property
    def url(self) -> str:
        return self.find(r"ready (http\S+)")[1]

    @property
    def group(self) -> int:
        return int(self.find(r"group (\d+)")[1])

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def ask(self, path: str, *, answered: bool = True) -> tuple[threading.Thread, list[bytes]]:
        """Ask in the background; the list gets the answer. `answered`: whether there will be one."""
        answers: list[bytes] = []

        def get() -> None:
            with nullcontext() if answered else suppress(OSError, HTTPException):
                answers.append(self.get(path))

        thread = threading.Thread(target=get, daemon=True)
        thread.start()
        return thread, answers

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        status = self.process.wait(timeout_s)
        self._reader.join(5)
        return status


@contextmanager
def supervised(*modes: str, timeout_s: float = 20.0) -> Iterator[Supervised]:
    running = Supervised(modes, timeout_s)
    try:
        yield running
    finally:
        found = re.search(r"group (\d+)", running.text)
        running.process.kill()
        running.process.wait()
        if found:
            with suppress(ProcessLookupError):
                os.killpg(int(found[1]), signal.SIGKILL)
