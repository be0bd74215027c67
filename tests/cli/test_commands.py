"""The commands as a newcomer uses them: what they print and write, and what they say when something is wrong."""

import json
import subprocess
import sys

import pytest

from evenmoe.loads import read_loads

SMALL = ["--windows", "8", "--window-tokens", "24", "--batch-size", "4", "--devices", "4"]


@pytest.fixture
def texts(text_files):
    return [argument for path in text_files for argument in ("--text", path)]


def test_sweep_writes_table_data_plots_and_report(evenmoe, tiny_checkpoint, texts, tmp_path):
    status, out, _ = evenmoe(
        "sweep", tiny_checkpoint, *texts, *SMALL, "--policy", "fill", "--gamma", 1, "--out", tmp_path, "--json",
        tmp_path / "copy" / "rows.json",
    )  # fmt: skip
    assert status == 0
    assert "Fill" in out
    assert "No limit" in out
    assert (tmp_path / "copy" / "rows.json").read_bytes() == (tmp_path / "results.json").read_bytes()
    html = (tmp_path / "report.html").read_text()
    assert "<svg" in html
    assert "src=" not in html, "the report must be one file"
    assert {"quality.png", "heat_map.png", "load_profile.png"} <= {path.name for path in tmp_path.iterdir()}


def test_report_is_drawn_again_from_the_data_alone(evenmoe, tiny_checkpoint, texts, tmp_path):
    evenmoe("sweep", tiny_checkpoint, *texts, *SMALL, "--policy", "fill", "--gamma", 1, "--out", tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    status, _, _ = evenmoe("report", tmp_path)
    assert status == 0
    assert (tmp_path / "report.html").read_bytes() == first


def test_profile_writes_loads_that_read_back(evenmoe, tiny_checkpoint, texts, tmp_path):
    status, out, _ = evenmoe(
        "profile", tiny_checkpoint, *texts, *SMALL, "--out", tmp_path, "--json", tmp_path / "l.npz"
    )
    assert status == 0
    assert "Straggler factor on 4 devices" in out
    loads = read_loads(tmp_path / "loads.json")
    assert set(loads.by_tag) == {"numbers", "words"}
    assert loads.total.tokens_L.tolist() == [8 * 24, 8 * 24]
    assert read_loads(tmp_path / "l.npz").drop_rate == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "no/such/folder"), "no/such/folder"),
        (("profile", "no/such/folder"), "no/such/folder"),
        (("sweep", "MODEL", "--policy", "tokendrop"), "baseline, token_drop"),
        (("sweep", "MODEL", "--gamma", "0"), "greater than 0"),
        (("sweep", "MODEL", "--gamma", "nan"), "gamma"),
        (("sweep", "MODEL", "--scope", "galactic"), "'local' or 'global'"),
        (("sweep", "MODEL", "--dtype", "float8"), "float32"),
        (("sweep", "MODEL", "--windows", "7", "--batch-size", "2"), "a divisor of the 7 windows"),
        (("profile", "MODEL", "--window-tokens", "100000"), "0 fit in the text"),
        (("sweep", "MODEL", "--text", "absent.txt"), "absent.txt"),
        (("sweep", "MODEL", "--devices", "99"), "8 experts"),
        (("report", "absent-folder"), "absent-folder"),
        (("sweep", "bundled:poetry"), "poetry"),
    ],
)
def test_wrong_input_is_one_clear_line_and_status_2(
    evenmoe, tiny_checkpoint, texts, arguments, message, tmp_path
):
    given = [tiny_checkpoint if argument == "MODEL" else argument for argument in arguments]
    if given[0] != "report":
        given += [] if "--text" in given else texts
        given += (
            ["--out", tmp_path]
            if "--window-tokens" in given
            else ["--window-tokens", "24", "--out", tmp_path]
        )
    status, out, err = evenmoe(*given)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out


@pytest.mark.parametrize(
    "arguments", [("sweeep",), ("sweep",), ("sweep", "m", "--gama", "1"), ("demo", "--devices", "0")]
)
def test_wrong_usage_is_status_2(evenmoe, arguments):
    status, _, err = evenmoe(*arguments)
    assert status == 2
    assert "Usage" in err


def test_ctrl_c_says_what_happens_to_finished_work(evenmoe, tiny_checkpoint, texts, tmp_path, monkeypatch):
    import evenmoe.evaluation.sweep as sweep_module

    monkeypatch.setattr(sweep_module, "_measure", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    status, _, err = evenmoe("sweep", tiny_checkpoint, *texts, *SMALL, "--out", tmp_path)
    assert status == 130
    assert "goes on from there" in err


def test_doctor_reports_as_data(evenmoe, tmp_path):
    _, out, _ = evenmoe("doctor", "--json", tmp_path / "doctor.json")
    findings = {row["name"]: row for row in json.loads((tmp_path / "doctor.json").read_text())["findings"]}
    assert {"Python", "torch", "transformers", "GPU"} <= set(findings)
    assert findings["torch"]["state"] == "ok"
    assert "torch" in out


def test_doctor_prints_extras_with_their_brackets(evenmoe, monkeypatch):
    import evenmoe.serving.launch.engines as engines
    import evenmoe.serving.launch.traps as traps

    monkeypatch.setattr(traps, "vllm_version", lambda: None)
    monkeypatch.setattr(engines, "missing", lambda engine: ["uvicorn"])
    out = evenmoe("doctor")[1]
    assert "pip install 'evenmoe[serve]'" in out
    assert "pip install 'evenmoe[serve-transformers]'" in out


def test_doctor_names_what_is_broken(evenmoe, monkeypatch):
    import evenmoe.doctor as doctor

    monkeypatch.setattr(
        doctor, "requires", lambda name: ["torch>=99", "not-a-package>=1", "skipped; extra == 'x'"]
    )
    status, out, _ = evenmoe("doctor")
    assert status == 1
    assert "pip install 'torch>=99'" in out
    assert "pip install 'not-a-package>=1'" in out
    assert "skipped" not in out


def test_bench_routing_prints_every_policy_beside_top_k(evenmoe, tmp_path):
    path = tmp_path / "bench.json"
    status, out, _ = evenmoe("bench", "routing", "--tokens", 256, "--repeats", 1, "--json", path)
    assert status == 0
    names = {row["name"] for row in json.loads(path.read_text())["rows"]}
    assert any("top-k" in name for name in names)
    assert len(names) >= 5
    assert all(name in out for name in names)


def test_version_and_help(evenmoe):
    assert evenmoe("--version")[1].startswith("evenmoe ")
    for command in ("demo", "profile", "sweep", "report", "models", "bench", "doctor"):
        status, out, _ = evenmoe(command, "--help")
        assert status == 0
        assert "Usage" in out


def test_importing_evenmoe_loads_nothing_heavy():
    script = (
        "import sys, evenmoe; "
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib', 'typer', 'pydantic'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "led"), [("profile", True), ("models", True), ("serve", False), ("doctor", False)]
)
def test_commands_that_load_models_go_around_the_traps(command, led, monkeypatch):
    from typer.testing import CliRunner

    from evenmoe.cli import main

    calls = []
    monkeypatch.setattr(main, "lead_around_traps", lambda: calls.append(command))
    assert CliRunner().invoke(main.app, [command, "--help"]).exit_code == 0
    assert calls == [command] * led
