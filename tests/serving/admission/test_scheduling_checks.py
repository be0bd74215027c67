"""A setting of scheduling inside vLLM that could not act stops the start."""

import pytest

from evenmoe.errors import ConfigError
from evenmoe.serving.config import SchedulingConfig
from evenmoe.serving.vllm.scheduling_checks import (
    CLIENT_LOADS,
    SCHEDULER,
    check_loads_are_checked,
    check_scheduler_is_ours,
)


def test_what_is_configured_needs_our_scheduler():
    check_scheduler_is_ours(None, SchedulingConfig())
    check_scheduler_is_ours(SCHEDULER, SchedulingConfig(strategy="random"))
    with pytest.raises(
        ConfigError, match=r"evenmoe\.scheduling\.strategy = 'random'.*--scheduler-cls evenmoe"
    ):
        check_scheduler_is_ours(None, SchedulingConfig(strategy="random"))
    with pytest.raises(ConfigError, match=r"evenmoe\.scheduling\.predictor = 'client'"):
        check_scheduler_is_ours(None, SchedulingConfig(predictor="client"))


def test_loads_of_clients_need_someone_who_checks_them():
    client = SchedulingConfig(predictor="client")
    check_loads_are_checked(["other:Processor", CLIENT_LOADS], client)
    check_loads_are_checked(None, SchedulingConfig())
    for others in (None, [], ["other:Processor"], [SchedulingConfig]):
        with pytest.raises(ConfigError, match=r"predictor = 'client'.*--logits-processors evenmoe"):
            check_loads_are_checked(others, client)


def test_the_names_are_those_of_the_classes():
    """Checked without vLLM: the modules are read, not imported."""
    from importlib.util import find_spec
    from pathlib import Path

    module, name = CLIENT_LOADS.split(":")
    assert f"class {name}(" in Path(find_spec(module).origin).read_text()
    package, name = SCHEDULER.rsplit(".", 1)
    assert f'"{name}"' in Path(find_spec(package).origin).read_text()
