"""Loading checkpoints: safetensors only, clear errors, 4 bits."""

import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.models import loading
from evenmoe.models.loading import load, load_tokenizer
from evenmoe.routing import TokenDrop
from tests.models.attach_reference import forward, ids_of, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("olmoe")
    tiny_model("olmoe").save_pretrained(folder)
    return folder


def test_a_checkpoint_loads_exactly_and_in_eval_mode(checkpoint):
    model = load(checkpoint)
    assert not model.training
    assert torch.equal(forward(model, ids_of()), forward(tiny_model("olmoe"), ids_of()))
    assert evenmoe.load(str(checkpoint), dtype="bfloat16").dtype == torch.bfloat16
    assert load(checkpoint, dtype=torch.float16, device="cpu").dtype == torch.float16


def test_a_vision_language_model_loads(tmp_path):
    tiny_model("qwen3_vl_moe").save_pretrained(tmp_path)
    assert type(load(tmp_path)).__name__ == "Qwen3VLMoeForConditionalGeneration"


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "a/b/c", ""])
def test_a_wrong_path_is_named(path):
    with pytest.raises(ConfigError, match=f"path_or_name = '{path}'.*no such directory"):
        load(path)
    with pytest.raises(ConfigError, match="no such directory"):
        load_tokenizer(path)


def test_a_file_and_an_empty_directory_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match="it is a file"):
        load(file)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused(tmp_path, checkpoint, name):
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    (tmp_path / name).write_bytes(b"never read")
    with pytest.raises(ConfigError, match=f"only {name}, which are pickles"):
        load(tmp_path)


def test_no_weights_at_all_are_refused(tmp_path, checkpoint):
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(ConfigError, match="it has none"):
        load(tmp_path)


def test_code_in_a_checkpoint_does_not_run(tmp_path, checkpoint):
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}'
    )
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    (tmp_path / "mine.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(UnsupportedModelError, match="trust_remote_code=True"):
        load(tmp_path)


def test_unknown_options_are_refused(checkpoint):
    with pytest.raises(ConfigError, match=r"quantization = 'int8'.*nf4"):
        load(checkpoint, quantization="int8")
    with pytest.raises(ConfigError, match=r"dtype = 'fp8'.*bfloat16"):
        load(checkpoint, dtype="fp8")


def test_a_missing_tokenizer_is_named(checkpoint):
    with pytest.raises(ConfigError, match="a directory with a tokenizer"):
        load_tokenizer(checkpoint)


def test_nf4_without_its_extra_names_it(checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'evenmoe\[quantization\]'"):
        load(checkpoint, quantization="nf4")


@pytest.mark.parametrize("name", ["olmoe", "llama4_text", "jetmoe"])
def test_nf4_holds_experts_in_4_bits_and_routers_exactly(tmp_path, name):
    pytest.importorskip("bitsandbytes")
    model, ids = tiny_model(name), ids_of()
    model.save_pretrained(tmp_path)
    small = load(tmp_path, quantization="nf4", dtype="float32")
    kinds = {key: p.dtype for key, p in small.named_parameters()}
    experts = [key for key in kinds if "parametrizations" in key]
    assert len(experts) == 4
    assert all(kinds[key] == torch.uint8 for key in experts)
    assert all(
        dtype == torch.float32 for key, dtype in kinds.items() if "gate.weight" in key or "router" in key
    )
    plain = forward(small, ids)
    assert torch.nn.functional.cosine_similarity(plain.flatten(), forward(model, ids).flatten(), dim=0) > 0.9
    with evenmoe.attach(small, TokenDrop(gamma=float("inf"))):
        assert torch.equal(forward(small, ids), plain)
    with evenmoe.attach(small, TokenDrop(gamma=1.0)) as attached:
        forward(small, ids)
        assert attached.loads.drop_rate > 0
    assert torch.equal(forward(small, ids), plain)


def test_an_unknown_bundled_model_lists_the_known(monkeypatch, tmp_path):
    from evenmoe.models import bundled

    for name in ("text", "vision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setattr(bundled, "_HOME", tmp_path)
    with pytest.raises(ConfigError, match="name = 'txt' is not allowed: one of text, vision"):
        evenmoe.load_bundled("txt")
    assert bundled.bundled_path("text") == tmp_path / "text"
