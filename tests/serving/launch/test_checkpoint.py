"""Which models are served, from where, and what is said of those that cannot be."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evenmoe.errors import ConfigError, FileFormatError, UnsupportedModelError
from evenmoe.serving.launch import checkpoint
from evenmoe.serving.launch.checkpoint import BUNDLED, prepare
from evenmoe.serving.launch.untying import HEAD, HEAD_FILE, INDEX, SHARD, cache_folder, untied
from evenmoe.serving.launch.vllm_models import source_of, ties_embeddings

REGISTRY = """
_MODELS = {
    "OlmoeForCausalLM": ("olmoe", "OlmoeForCausalLM"),
    "MixtralForCausalLM": ("mixtral", "MixtralForCausalLM"),
    "DbrxForCausalLM": (
        "dbrx",
        "DbrxForCausalLM",
    ),
}
"""
SOURCES = {
    "olmoe": "self.lm_head = ParallelLMHead(config.vocab_size)",
    "mixtral": "if config.tie_word_embeddings:\n    self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)",
    "dbrx": 'raise ValueError("tie_word_embeddings is not supported")',
}


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """A folder that looks like vLLM's to who reads its sources."""
    models = tmp_path / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    (models / "registry.py").write_text(REGISTRY, encoding="utf-8")
    for name, source in SOURCES.items():
        (models / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(checkpoint, "vllm_folder", lambda: tmp_path / "vllm")
    return tmp_path / "vllm"


@pytest.fixture
def tiny(tmp_path):
    """A folder that looks like a checkpoint of OLMoE with tied embeddings."""
    return write(tmp_path / "tiny", {"model.embed_tokens.weight": torch.randn(8, 4).bfloat16()})


def write(folder, weights, **changes):
    folder.mkdir()
    config = {"architectures": ["OlmoeForCausalLM"], "num_experts": 4, "tie_word_embeddings": True} | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    return folder


def test_the_bundled_model_is_served_under_its_name_with_an_output_embedding_of_its_own(vllm, tmp_path):
    served = prepare("bundled:text", "vllm", cache=tmp_path / "cache")
    assert served.name == "bundled:text"
    assert "untied copy" in served.note
    weights = {}
    for file in (tmp_path / "cache").glob("*/*.safetensors"):
        weights |= load_file(file)
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert set(load_file(BUNDLED / "text" / "model.safetensors")) | {HEAD} == set(weights)


def test_transformers_load_the_copy_as_the_model_that_it_is(vllm, tmp_path):
    from evenmoe.models.loading import load

    path = prepare("bundled:text", "vllm", cache=tmp_path).path
    ids = torch.arange(40).reshape(1, 40)
    with torch.no_grad():
        copy, original = load(path)(ids).logits, load(BUNDLED / "text")(ids).logits
    assert torch.equal(copy, original)


def test_transformers_need_no_copy(vllm, tmp_path):
    served = prepare("bundled:text", "transformers", cache=tmp_path / "cache")
    assert served.path == str(BUNDLED / "text")
    assert not served.note
    assert not (tmp_path / "cache").exists()


def test_a_copy_is_made_once_and_anew_when_the_checkpoint_changes(tiny, tmp_path):
    first = untied(tiny, tmp_path / "cache")
    made = (first / HEAD_FILE).stat().st_mtime_ns
    assert untied(tiny, tmp_path / "cache") == first
    assert (first / HEAD_FILE).stat().st_mtime_ns == made
    save_file({"model.embed_tokens.weight": torch.ones(8, 4)}, tiny / "model.safetensors")
    second = untied(tiny, tmp_path / "cache")
    assert second != first
    assert load_file(second / HEAD_FILE)[HEAD].eq(1).all()
    assert not list((tmp_path / "cache").glob(".untying-*"))


def test_weights_are_links_and_the_dtype_stays(tiny, tmp_path):
    copy = untied(tiny, tmp_path / "cache")
    assert (copy / SHARD).is_symlink()
    assert (copy / "tokenizer.json").is_symlink()
    assert load_file(copy / HEAD_FILE)[HEAD].dtype == torch.bfloat16
    assert json.loads((copy / "config.json").read_text())["tie_word_embeddings"] is False


def test_an_index_of_shards_learns_of_the_new_file(tiny, tmp_path):
    (tiny / "model.safetensors").rename(tiny / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
    (tiny / INDEX).write_text(json.dumps(index), encoding="utf-8")
    copy = untied(tiny, tmp_path / "cache")
    places = json.loads((copy / INDEX).read_text())["weight_map"]
    assert places == index["weight_map"] | {HEAD: HEAD_FILE}
    for name, file in places.items():
        with safe_open(copy / file, framework="pt") as tensors:
            assert name in tensors.keys()  # noqa: SIM118


def test_several_files_without_an_index_are_no_checkpoint(tiny, tmp_path):
    (tiny / "model.safetensors").rename(tiny / "part.safetensors")
    with pytest.raises(FileFormatError, match=r"no model\.safetensors\.index\.json"):
        untied(tiny, tmp_path / "cache")


def test_without_one_input_embedding_there_is_no_copy(tmp_path):
    two = {"a.embed_tokens.weight": torch.ones(2, 2), "b.embed_tokens.weight": torch.ones(2, 2)}
    with pytest.raises(FileFormatError, match=r"found a\.embed_tokens\.weight, b\.embed_tokens\.weight"):
        untied(write(tmp_path / "two", two), tmp_path / "cache")
    with pytest.raises(FileFormatError, match="found none"):
        untied(write(tmp_path / "none", {"x": torch.ones(2)}), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"architectures": ["MixtralForCausalLM"]},
        {"architectures": ["DbrxForCausalLM"]},
        {"text_config": {"tie_word_embeddings": True}},
    ],
)
def test_no_copy_where_none_is_needed(vllm, tmp_path, changes):
    folder = write(tmp_path / "m", {"model.embed_tokens.weight": torch.ones(2, 2)}, **changes)
    served = prepare(str(folder), "vllm", cache=tmp_path / "cache")
    assert served.path == str(folder)
    assert not served.note
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["lm_head.weight", "lm_head.qweight", "language_model.lm_head.weight"])
def test_no_copy_where_the_weights_hold_an_output_embedding(vllm, tmp_path, name):
    weights = {"model.embed_tokens.weight": torch.ones(2, 2), name: torch.ones(2, 2)}
    folder = write(tmp_path / "m", weights)
    assert prepare(str(folder), "vllm", cache=tmp_path / "cache").path == str(folder)


def test_the_sources_that_are_read(vllm):
    assert not ties_embeddings(source_of("OlmoeForCausalLM", vllm))
    assert ties_embeddings(source_of("MixtralForCausalLM", vllm))
    assert ties_embeddings(source_of("DbrxForCausalLM", vllm))
    assert source_of("OtherForCausalLM", vllm) is None


def test_an_architecture_that_vllm_does_not_have(vllm, tmp_path):
    folder = write(tmp_path / "m", {"x": torch.ones(1)}, architectures=["OtherForCausalLM"])
    with pytest.raises(
        UnsupportedModelError, match=r"no class for OtherForCausalLM; try --engine transformers"
    ):
        prepare(str(folder), "vllm")
    assert prepare(str(folder), "transformers").path == str(folder)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("bundled:nothing", "bundled:text"),
        ("/no/such/folder", "no such folder"),
        ("./nowhere", "no such folder"),
        ("olmoe", "no such folder"),
        ("a/b/c", "no such folder"),
        (__file__, "it is a file"),
        ("owner/no-such-model", "Hugging Face Hub that can be reached"),
        ("owner/bad name", "Hugging Face Hub that can be reached"),
    ],
)
def test_names_that_lead_nowhere(model, named):
    with pytest.raises(ConfigError, match=named):
        prepare(model, "transformers")


@pytest.mark.parametrize(
    ("files", "error", "named"),
    [
        ((), ConfigError, r"with config\.json"),
        (("config.json",), ConfigError, r"safetensors weights; it has none"),
        (("config.json", "pytorch_model.bin"), ConfigError, r"only pytorch_model\.bin, which can run code"),
        (("config.json", "model.safetensors"), ConfigError, "a tokenizer, such as"),
    ],
)
def test_folders_that_are_no_whole_checkpoint(files, error, named, tiny, tmp_path):
    folder = tmp_path / "part"
    folder.mkdir()
    for name in files:
        shutil.copy(tiny / (name if (tiny / name).exists() else "model.safetensors"), folder / name)
    with pytest.raises(error, match=named):
        prepare(str(folder), "transformers")


@pytest.mark.parametrize(
    ("config", "named"),
    [("not json", "not a JSON file"), ("[1]", "holds no object")],
)
def test_configurations_that_are_none(config, named, tmp_path):
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(FileFormatError, match=named):
        prepare(str(tmp_path), "transformers")


@pytest.mark.parametrize(
    ("numbers", "is_dense"),
    [
        ({"num_experts": None}, True),
        ({"num_experts": None, "num_local_experts": 8}, False),
        ({"num_experts": None, "n_routed_experts": 64}, False),
        ({"num_experts": None, "ffn_config": {"moe_num_experts": 16}}, False),
        ({"num_experts": None, "text_config": {"num_experts": 1}}, True),
        ({"num_experts": None, "moe_num_experts": [64, 64]}, False),
        ({"num_experts": 1, "num_experts_per_tok": 8}, True),
    ],
)
def test_dense_models_are_refused(numbers, is_dense, tmp_path):
    folder = write(tmp_path / "m", {"x": torch.ones(1)}, **numbers)
    if is_dense:
        with pytest.raises(UnsupportedModelError, match="the model is dense"):
            prepare(str(folder), "transformers")
    else:
        assert prepare(str(folder), "transformers").path == str(folder)


def test_copies_are_kept_where_caches_belong(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "evenmoe" / "untied"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_folder()) == "/home/someone/.cache/evenmoe/untied"
