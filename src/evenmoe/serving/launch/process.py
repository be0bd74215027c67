"""EngineProcess: the engine as a child process with all its own children in one group, its log passed through."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

KEPT_LINES = 2000
GUARD = Path(__file__).with_name("guard.py")


class EngineProcess:
    """A started engine. `kill` ends every process of its group; so does the death of this process.

    command: the program and its arguments.
    environment: all of it, nothing is inherited.
    on_line: called with each line of its output, from another thread; it must not raise, or the engine's output
        is read no further.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        self._on_line = on_line
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self.num_lines = 0
        # Isolated and without site-packages: a small process that nothing can break.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD)], stdin=subprocess.PIPE, process_group=0
        )
        try:
            self._engine = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=self._guard.pid,
            )
        except BaseException:
            self.kill()
            raise
        self._reader = threading.Thread(target=self._read, name="engine-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The engine's process id; its children are in the group `group`."""
        return self._engine.pid

    @property
    def group(self) -> int:
        """The id of the process group that holds the engine, its children and their guard."""
        return self._guard.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for the signal that ended it; None while it runs."""
        return self._engine.poll()

    @property
    def log(self) -> list[str]:
        """The last lines of its output, oldest first."""
        return list(self._kept)

    def log_since(self, num_lines: int) -> list[str]:
        """The lines after the first `num_lines`, as far as they are kept."""
        return list(self._kept)[-max(self.num_lines - num_lines, 0) :] if self.num_lines > num_lines else []

    def send(self, number: signal.Signals) -> None:
        """Signal the engine itself, not its children."""
        if self._engine.poll() is None:
            self._engine.send_signal(number)

    def kill(self) -> None:
        """End every process of the group at once, and collect the engine's last output."""
        with suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        if hasattr(self, "_engine"):
            self._engine.wait()
        if hasattr(self, "_reader"):
            self._reader.join(timeout=2.0)

    def close(self, patience_s: float) -> None:
        """Give children that the ended engine left `patience_s` seconds to end too, then `kill`."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and self._others():
            time.sleep(0.05)
        self.kill()

    def _others(self) -> bool:
        """Whether the group has living processes besides the guard."""
        return any(pid != self._guard.pid for pid in processes_of(self._guard.pid))

    def _read(self) -> None:
        stream = self._engine.stdout
        assert stream is not None
        for raw in iter(stream.readline, b""):
            line = raw.decode("utf-8", errors="replace").rstrip("\n")
            self._kept.append(line)
            self.num_lines += 1
            self._on_line(line)


def processes_of(group: int) -> list[int]:
    """Ids of the processes of a group that have not ended; none where the system has no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] not in ("Z", "X"):
                found.append(int(entry.parent.name))
    return sorted(found)
