"""`evenmoe break-even`: what it prints and saves, and what it refuses."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from evenmoe.cli.main import app
from evenmoe.errors import ConfigError


def run(*arguments):
    return CliRunner().invoke(app, ["break-even", *arguments])


def test_prints_and_saves_the_same(tmp_path):
    out = tmp_path / "new" / "result.json"
    result = run("--machine", "h20-node", "--devices", "1", "--skew", "4", "--json", str(out))
    assert result.exit_code == 0, result.output
    body = json.loads(out.read_text())
    assert (body["source"], body["devices"]) == ("datasheet", 1)
    token_drop, expert_drop = body["policies"]
    assert f"token_drop pays from {token_drop['pays_from_tokens']} tokens on" in result.output
    few, many = token_drop["rows"][0], token_drop["rows"][-1]
    assert few["speedup"] < 1 < many["speedup"]
    assert expert_drop["rows"][-1]["experts_touched"] == 58


def test_refuses_a_domain_without_a_file():
    result = run("--tag", "code")
    assert isinstance(result.exception, ConfigError)
    assert result.exception.field == "loads"
