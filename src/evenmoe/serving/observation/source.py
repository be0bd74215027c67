"""Where a server's metrics come from: an engine's processes through a spool, or this process's own memory."""

from __future__ import annotations

import json
import logging
from typing import Protocol

from evenmoe.errors import EvenMoEError
from evenmoe.serving.config import ServingConfig, serving_config_of
from evenmoe.serving.observation.loads_file import LatestLoads
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.scheduling_file import read_scheduling_snapshot
from evenmoe.serving.observation.scheduling_snapshot import SchedulingSnapshot
from evenmoe.serving.observation.spool import Spool

CONFIG_NAME = "config.json"

logger = logging.getLogger(__name__)


class Source(Protocol):
    """What is shown. Each part is None as long as nobody has told it."""

    @property
    def engine(self) -> str:
        """The engine's name."""
        ...

    def config(self) -> ServingConfig | None:
        """What the server was started with. None where evenmoe is not configured: then nothing is shown at all."""
        ...

    def loads(self) -> LoadsSnapshot | None:
        """What a LoadsPublisher wrote last, and nothing newer."""
        ...

    def scheduling(self) -> SchedulingSnapshot | None:
        """What the scheduler did, where it is ours."""
        ...


class SpoolSource:
    """A Source that reads what the processes of an engine wrote into their spool."""

    def __init__(self, spool: Spool, engine: str) -> None:
        self._spool, self.engine = spool, engine
        self._loads = LatestLoads(spool)

    def config(self) -> ServingConfig | None:
        """What `write_config` wrote."""
        return read_config(self._spool)

    def loads(self) -> LoadsSnapshot | None:
        """The worker's."""
        return self._loads()

    def scheduling(self) -> SchedulingSnapshot | None:
        """The scheduler's."""
        return read_scheduling_snapshot(self._spool)


def write_config(config: ServingConfig, spool: Spool) -> None:
    """Tell the others that evenmoe acts in this engine, and how. Raises OSError where the folder is gone or full."""
    spool.write(CONFIG_NAME, config.model_dump_json().encode())


def read_config(spool: Spool) -> ServingConfig | None:
    """What was told; None where nothing was, or a file that is no configuration (which is logged)."""
    data = spool.read(CONFIG_NAME)
    if data is None:
        return None
    try:
        return serving_config_of(json.loads(data))
    except (EvenMoEError, ValueError) as error:
        logger.warning("%s: %s", spool.folder / CONFIG_NAME, error)
        return None
