"""The pages on `simulate trace` and `simulate live` name options that there are."""

import re
from pathlib import Path

import pytest
import typer

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "command"), [("simulate_trace.md", "trace"), ("live.md", "live")])
def test_the_page_names_options_of_the_command(page, command):
    from evenmoe.cli.simulate import app

    known = {
        name
        for param in typer.main.get_command(app).commands[command].params
        for name in (*param.opts, *param.secondary_opts)
    }
    named = set(re.findall(r"--[a-z][a-z-]+", (DOCS / page).read_text()))
    assert len(named) >= 5
    assert named <= known
