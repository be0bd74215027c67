"""BatchLedger: finished batches come back whole; what is resumed equals what is not."""

import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.ledger import BatchLedger, open_journal
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.loads import pack_loads
from evenmoe.models.loading import load
from evenmoe.routing import TokenDrop
from evenmoe.simulation.studies.journal import Journal

IDS = [torch.arange(start, start + 24).view(2, 12) for start in (5, 40, 90)]
RANDOM = TokenDrop(gamma=0.5, keep="random")


def run(model, journal, upto=3, ran=None):
    """Run the batches through a ledger; gives the answers and the ledger."""
    with evenmoe.attach(model, RANDOM, num_devices=2, min_tokens=1) as attached, torch.inference_mode():
        ledger = BatchLedger(attached, journal)
        ledger.restart()

        def answer(ids):
            if ran is not None:
                ran.append(1)
            return [float(value) for value in model(ids).logits[:, -1, 7]]

        answers = [ledger.run(f"batch {n}", lambda ids=ids: answer(ids)) for n, ids in enumerate(IDS[:upto])]
    return answers, ledger


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint, dtype="float32")


@pytest.mark.parametrize("upto", [1, 2, 3])
def test_what_was_resumed_equals_what_was_not(model, tmp_path, upto):
    answers, ledger = run(model, None)
    path = tmp_path / "journal.jsonl"
    run(model, Journal(path, {}), upto)
    ran = []
    resumed, other = run(model, Journal(path, {}), ran=ran)
    assert resumed == answers
    assert pack_loads(other.loads) == pack_loads(ledger.loads)
    assert (other.num_resumed, len(ran)) == (upto, 3 - upto)
    assert other.seconds_resumed > 0


def test_the_sum_over_batches_is_what_one_attachment_counts(model):
    _, ledger = run(model, None)
    with evenmoe.attach(model, RANDOM, num_devices=2, min_tokens=1) as attached, torch.inference_mode():
        for ids in IDS:
            model(ids)
        assert (ledger.loads.total.after_LE == attached.loads.total.after_LE).all()
        assert ledger.loads.straggler_factor == pytest.approx(attached.loads.straggler_factor)


@pytest.mark.parametrize(
    "row", [{"answers": []}, {"answers": [1], "seconds": 1.0, "num_forwards": 1, "loads": "AAAA"}]
)
def test_a_row_that_is_no_finished_batch_is_refused_by_name(model, tmp_path, row):
    journal = Journal(tmp_path / "journal.jsonl", {})
    journal.add("batch 0", row)
    with pytest.raises(FileFormatError, match="batch 0"):
        run(model, journal)


def test_a_journal_belongs_to_its_settings_and_weights_but_not_to_its_tasks(tiny_checkpoint, tmp_path):
    config = EvalConfig(model=str(tiny_checkpoint), tasks=("one",))
    journal = open_journal(config, tmp_path, {"torch": "2"})
    journal.add("batch 0", {"answers": []})
    more = config.model_copy(update={"tasks": ("one", "two")})
    assert "batch 0" in open_journal(more, tmp_path, {"torch": "2"})
    for changed, versions in (
        (config.model_copy(update={"seed": 1}), {"torch": "2"}),
        (config, {"torch": "3"}),
        (config.model_copy(update={"model": str(tmp_path)}), {"torch": "2"}),
    ):
        with pytest.raises(ConfigError, match=r"batches\.partial\.jsonl"):
            open_journal(changed, tmp_path, versions)
