"""`evenmoe simulate paper` as a user meets it: tables, files, figures, interruptions and mistakes."""

import json

import pytest

from evenmoe.cli.simulate_options import repeated, whole_numbers, words
from evenmoe.errors import ConfigError
from evenmoe.reporting.simulation_plots import FIGURES, write_figures

COMMAND = (
    "simulate", "paper", "--requests", 80, "--seeds", 1, 2, "--rates", "150,300", "--strategies", "random", "auto",
    "--steady-requests", 100, "--jobs", 1,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tmp_path_factory.mktemp("study") / "out"


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out: they take most of the time."""
    monkeypatch.setattr("evenmoe.reporting.simulation_plots.write_figures", lambda body, out: [])


def test_it_prints_tables_and_writes_everything(evenmoe, study, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    status, out, err = evenmoe(*COMMAND, "--out", study, "--json", study.parent / "copy.json")
    assert status == 0, err
    for title in (
        "Bursts on one topic",
        "Poisson arrivals",
        "beside the published figures",
        "A fluid queue beside",
    ):
        assert title in out
    assert "The published shape" in out
    assert "steady state: fcfs serves" in out
    names = {path.name for path in study.iterdir()}
    drawn = {f"{name}.{suffix}" for name in FIGURES for suffix in ("pdf", "png")}
    assert names == {"results.json", "evaluation.log", *drawn}
    assert (study.parent / "copy.json").read_bytes() == (study / "results.json").read_bytes()
    body = json.loads((study / "results.json").read_text())
    assert body["strategies"] == ["fcfs", "random", "auto"]
    assert body["config"]["generated"] == "1970-01-01T00:00:00Z"
    log = (study / "evaluation.log").read_text()
    assert log.count("ended: all finished") == len(body["cells"]) == 2 * 2 * 2 * 3
    assert "beside the published figures" in log
    steady = body["steady_state"]
    assert set(steady["capacity_per_s"]) == {"bursty", "poisson"}
    assert {line["share"] for line in steady["lines"]} == {0.5, 0.7, 0.8, 0.9, 0.95}


def test_the_same_command_gives_the_same_bytes(evenmoe, study, monkeypatch, undrawn):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    before = {path.name: path.read_bytes() for path in study.iterdir()}
    status, _, err = evenmoe(*COMMAND, "--out", study)
    assert status == 0, err
    assert {path.name: path.read_bytes() for path in study.iterdir()} == before


def test_figures_are_drawn_from_the_data_alone(study, tmp_path):
    body = json.loads((study / "results.json").read_text())
    for path in write_figures(body, tmp_path):
        data = path.read_bytes()
        assert data == (study / path.name).read_bytes()
        assert data.startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")


def test_another_study_in_the_same_folder_is_refused(evenmoe, study):
    before = (study / "results.json").read_bytes()
    status, _, err = evenmoe(*COMMAND, "--out", study, "--seeds", 3)
    assert status == 2
    assert "has other seeds" in " ".join(err.split())
    assert (study / "results.json").read_bytes() == before


def test_an_interrupted_study_goes_on(evenmoe, study, tmp_path, monkeypatch, undrawn):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    from evenmoe.simulation.studies import paper

    simulated, simulate = [], paper.simulate

    def interrupted(*arguments, **settings):
        if len(simulated) == 9:
            raise KeyboardInterrupt
        simulated.append(arguments)
        return simulate(*arguments, **settings)

    monkeypatch.setattr(paper, "simulate", interrupted)
    status, _, err = evenmoe(*COMMAND, "--out", tmp_path)
    assert status == 130
    assert "goes on from there" in err
    assert [path.name for path in tmp_path.iterdir()] == ["cells.partial.jsonl"]
    monkeypatch.setattr(paper, "simulate", simulate)
    status, _, err = evenmoe(*COMMAND, "--out", tmp_path)
    assert status == 0, err
    for name in ("results.json", "evaluation.log"):
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "one"), "seeds = 'one' is not allowed: whole numbers of at least 0"),
        (("--rates", "0"), "rates = '0' is not allowed: numbers above 0"),
        (("--rates", "150", "inf"), "rates = 'inf'"),
        (("--strategies", "best"), "all, published, or any of fcfs, random"),
        (("--patterns", "burst"), "one of bursty, poisson"),
        (("--seeds", "1", "1"), "none twice"),
        (("--steady-requests", "5"), "an integer of at least 100"),
    ],
)
def test_mistakes_name_the_option_and_what_is_allowed(evenmoe, tmp_path, arguments, message):
    status, _, err = evenmoe("simulate", "paper", *arguments, "--out", tmp_path)
    assert status == 2
    assert message in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_several_values_in_a_row_are_the_option_s():
    args = ["--seeds", "1", "2", "--rates=5", "--requests", "7", "--seeds", "3"]
    assert repeated(args, {"--seeds", "--rates"}) == [
        "--seeds", "1", "--seeds", "2", "--rates=5", "--requests", "7", "--seeds", "3",
    ]  # fmt: skip
    assert repeated(["--requests", "7", "8"], {"--seeds"}) == ["--requests", "7", "8"]
    assert words(["a,b", " c ,", "d"]) == ("a", "b", "c", "d")
    assert whole_numbers("seeds", ["42,123", "456"]) == (42, 123, 456)
    with pytest.raises(ConfigError, match="seeds = '-1'"):
        whole_numbers("seeds", ["-1"])
