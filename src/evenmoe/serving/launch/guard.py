"""Kills its process group when the process that started it is gone, however that ended. Standard library only.

`evenmoe serve` starts it first, as the leader of a group that the engine's processes then join, and holds the other
end of its standard input, which the system closes for it even after `kill -9`.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Wait for the end of standard input; then leave no process of the group behind, this one included."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
