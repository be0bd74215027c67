"""The corpus: each domain split by document into training and held-out text, and written to disk."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.errors import RecipeError
from tools.text_model.document import Document, name_fraction
from tools.text_model.overlap import drop_shared_passages, shared_fraction, sorted_run_hashes
from tools.text_model.recipe import Recipe
from tools.text_model.sources import Source

SEPARATOR = "\n\f\n"
"""Between documents, in training and held-out files alike."""
_LINE_PASSAGES = {"scripture", "dictionary", "arithmetic"}  # a passage is a line there, a paragraph elsewhere


@dataclass(frozen=True, kw_only=True)
class SplitDomain:
    """One domain after the split."""

    source: Source
    train: list[Document]
    held_out: list[Document]


def split_domain(source: Source, recipe: Recipe) -> SplitDomain:
    """Split by the hash of the document's name; training documents in hash order up to the byte limit."""
    ordered = sorted(source.documents, key=lambda document: name_fraction(document.name))
    held_out = [document for document in ordered if name_fraction(document.name) < recipe.held_out_fraction]
    train, num_bytes = [], 0
    for document in ordered[len(held_out) :]:
        if num_bytes < recipe.max_train_bytes:
            train.append(document)
            num_bytes += len(document.text.encode())
    if not train or not held_out:
        raise RecipeError(
            f"domain {source.domain!r}: {len(train)} training and {len(held_out)} held-out documents of "
            f"{len(source.documents)}; at least 1 of each is needed"
        )
    return SplitDomain(source=source, train=train, held_out=held_out)


def clean_held_out(
    domain: SplitDomain, train_hashes: npt.NDArray[np.uint64], recipe: Recipe
) -> tuple[list[Document], dict[str, float]]:
    """The held-out documents that ship, free of passages that training holds, and the overlap before and after."""
    separator = "\n" if domain.source.domain in _LINE_PASSAGES else "\n\n"
    cleaned: list[Document] = []
    num_bytes = 0
    for document in domain.held_out:
        text = drop_shared_passages(document.text, train_hashes, recipe.overlap_words, separator)
        text = cut_at_passage(text, recipe.max_held_out_document_bytes, separator)
        if len(text) >= 400 and num_bytes < recipe.held_out_bytes:
            cleaned.append(replace(document, text=text))
            num_bytes += len(text.encode())
    shared = [
        shared_fraction([document.text for document in documents], train_hashes, recipe.overlap_words)
        for documents in (domain.held_out, cleaned)
    ]
    return cleaned, {"shared_before": shared[0], "shared_after": shared[1]}


def cut_at_passage(text: str, max_bytes: int, separator: str) -> str:
    """The longest start of the text, in whole passages, within the limit (at least the first passage)."""
    kept: list[str] = []
    num_bytes = 0
    for passage in text.split(separator):
        num_bytes += len((passage + separator).encode())
        if kept and num_bytes > max_bytes:
            break
        kept.append(passage)
    return separator.join(kept).strip("\n")


def write_corpus(sources: Iterable[Source], recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write `train`, `heldout`, `licences` (a file per domain each) and `corpus.json`; return what that holds."""
    domains = [split_domain(source, recipe) for source in sources]
    names = [domain.source.domain for domain in domains]
    if names != recipe.domains:
        raise RecipeError(f"domains gathered {names}, but the recipe trains {recipe.domains}")
    hashes = sorted_run_hashes((doc.text for domain in domains for doc in domain.train), recipe.overlap_words)
    facts = {domain.source.domain: write_domain(domain, hashes, recipe, folder) for domain in domains}
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    (folder / "corpus.json").write_text(text, encoding="utf-8")
    return facts


def write_domain(
    domain: SplitDomain, train_hashes: npt.NDArray[np.uint64], recipe: Recipe, folder: Path
) -> dict[str, Any]:
    """Write one domain's files; return its origin, sizes and overlap, and which documents were held out."""
    held_out, overlap = clean_held_out(domain, train_hashes, recipe)
    source, file_name = domain.source, f"{domain.source.domain}.txt"
    num_train = write_texts([document.text for document in domain.train], folder / "train" / file_name)
    num_held_out = write_texts([document.text for document in held_out], folder / "heldout" / file_name)
    notices = [f"{document.name}\n{document.notice}\n" for document in held_out if document.notice]
    licence_file = folder / "licences" / file_name
    if source.licence_text:
        licence_file.parent.mkdir(parents=True, exist_ok=True)
        licence_file.write_text("\n\n".join([*notices, source.licence_text]), encoding="utf-8")
    return {
        "origin": source.origin, "version": source.version, "licence": source.licence,
        "train_documents": len(domain.train), "train_bytes": num_train,
        "held_out_documents": len(held_out), "held_out_bytes": num_held_out, **overlap,
        "held_out_names": [document.name for document in held_out],
    }  # fmt: skip


def write_texts(texts: list[str], path: Path) -> int:
    """Write documents to one file, separated by form feeds; return its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (SEPARATOR.join(texts) + "\n").encode()
    path.write_bytes(data)
    return len(data)


def read_texts(path: Path) -> list[str]:
    """Read back what `write_texts` wrote."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split(SEPARATOR)
