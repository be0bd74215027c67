"""Why an engine ended: the lines of its log that say so, and the signal in words. Pure functions of text."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Sequence

from evenmoe.serving.launch.draining import DRAINED

MOST_LINES = 8
_ERROR = re.compile(
    r"^(?:\(.*?\)\s*)?(?:ERROR\b|CRITICAL\b|Traceback|[\w.]*(?:Error|Exception|Exit|Interrupt)\b\s*:|.*\berror:)|"
    r"\bdied\b|\bkilled\b|\bexited unexpectedly\b|Segmentation fault|core dumped|out of memory|[Ee]ngine ?[Dd]ead"
)
_NOISE = re.compile(r"^Dumping ")
"""vLLM's long lines about the step that failed, which hold what clients sent."""
_NAMED = re.compile(
    r"^evenmoe\.|\bdied unexpectedly\b|\bexited unexpectedly\b|Segmentation fault|out of memory"
)
"""Errors of ours, and which process died of what: these come first, however long ago they were."""
_DEATH = re.compile(r"EngineDeadError|died unexpectedly|encountered a fatal error|Executor failed")
_PREFIX = re.compile(
    r"^(?:\([^)]*pid=\d+\) ?)?(?:(?:WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)


def in_words(status: int) -> str:
    """An exit status in words: "exited with status 1", "was ended by SIGKILL"."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def error_lines(log: Sequence[str]) -> list[str]:
    """The last lines of a log that tell of an error, oldest first, each once, without prefixes and stack frames.

    What names the cause comes first: errors of ours, and which process died. Where no line tells of any, the last lines
    as they are.
    """
    found: list[str] = []
    for line in log:
        text = _PREFIX.sub("", line).rstrip()
        # The inside of a traceback is indented.
        is_frame = not text or text[0].isspace() or text.startswith("Traceback")
        if not is_frame and not _NOISE.search(text) and _ERROR.search(line):
            if text in found:
                found.remove(text)
            found.append(text)
    named = [text for text in found if _NAMED.search(text)]
    others = [text for text in found if text not in named]
    return [*named[-MOST_LINES:], *others[-MOST_LINES:]] or [line for line in log if line.strip()][
        -MOST_LINES:
    ]


def tells_of_death(log: Sequence[str]) -> bool:
    """Whether a log says that a process of the engine died while requests were still to be answered.

    What vLLM says of its processes afterwards is of their closing.
    """
    before = itertools.takewhile(lambda line: DRAINED not in line, log)
    return any(_DEATH.search(line) for line in before)
