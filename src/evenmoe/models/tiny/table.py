"""Every architecture's tiny configuration: what it needs beside the common sizes of `defaults`."""

from __future__ import annotations

from evenmoe.models.tiny import text_sigmoid, text_softmax, vision
from evenmoe.models.tiny.row import Row

TINY_CONFIGS: dict[str, Row] = {**text_softmax.ROWS, **text_sigmoid.ROWS, **vision.ROWS}
