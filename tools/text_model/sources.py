"""The domains: where each one's text comes from, and under which licence."""

import gzip
import platform
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.errors import RecipeError
from tools.text_model.arithmetic import arithmetic_documents
from tools.text_model.document import Document
from tools.text_model.licences import gpl_3, licence_stanza, page_comments, python_licence, translators
from tools.text_model.markup import html_to_text, squeeze_blank_lines, troff_to_text
from tools.text_model.packages import Package, fetch_package
from tools.text_model.recipe import Recipe

_PYTHON_SKIPPED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data",
                   "__pycache__", "_bundled", "__phello__"}  # fmt: skip
_GO_SKIPPED = {"testdata", "cmd", "vendor", "syscall"}  # cmd holds files under other licences, syscall tables
_SYNSETS_PER_DOCUMENT = 48
_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One domain's documents and where they came from."""

    domain: str
    origin: str
    version: str
    licence: str
    licence_text: str
    documents: list[Document]


def python_code() -> Source:
    """The standard library of the running interpreter."""
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = [
        Document(name=f"python/{path.relative_to(root)}", text=_read(path))
        for path in sorted(root.rglob("*.py"))
        if not _PYTHON_SKIPPED & set(path.relative_to(root).parts)
    ]
    return Source(
        domain="python", origin="Python standard library of the running interpreter",
        version=platform.python_version(), licence="PSF-2.0", licence_text=python_licence(root),
        documents=documents,
    )  # fmt: skip


def go_code(cache: Path) -> Source:
    """The Go standard library: hand-written files, no tests, no tables."""
    package = fetch_package("golang-1.19-src", cache)
    root = package.root / "usr/share/go-1.19/src"
    documents = []
    for path in sorted(root.rglob("*.go")):
        if _GO_SKIPPED & set(path.relative_to(root).parts) or path.name.endswith("_test.go"):
            continue
        text = _read(path)
        if "DO NOT EDIT" not in text[:2000] and len(text) < 150_000:
            documents.append(Document(name=f"go/{path.relative_to(root)}", text=text))
    return _from_package("go", package, "BSD-3-Clause", licence_stanza(package, "Go"), documents)


def scripture(cache: Path) -> Source:
    """The King James Bible, a document per chapter."""
    program, data = fetch_package("bible-kjv", cache), fetch_package("bible-kjv-text", cache)
    command = [str(program.root / "usr/bin/bible"), "-p", str(data.root / "usr/lib"), "-f", "gen1:1-rev22:21"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RecipeError(
            f"{command[0]!r} could not run ({error}); it needs the libreadline8 package"
        ) from error
    chapters: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        match = re.match(r"(\d?[A-Za-z]+\d+):(\d+) (.*)", line)
        if match:
            chapters.setdefault(match[1], []).append(f"{match[2]} {match[3].strip()}")
    documents = [
        Document(name=f"scripture/{name}", text="\n".join(verses)) for name, verses in chapters.items()
    ]
    return _from_package("scripture", data, "public domain (King James Version)", "", documents)


def dictionary(cache: Path) -> Source:
    """WordNet, an entry per set of synonyms, so that each definition occurs once."""
    package = fetch_package("wordnet-base", cache)
    documents = []
    for part in ("noun", "verb", "adj", "adv"):
        lines = (package.root / "usr/share/wordnet" / f"data.{part}").read_text(encoding="utf-8").splitlines()
        entries = [wordnet_entry(line) for line in lines if not line.startswith("  ")]
        for start in range(0, len(entries), _SYNSETS_PER_DOCUMENT):
            text = "\n".join(entries[start : start + _SYNSETS_PER_DOCUMENT])
            documents.append(Document(name=f"dictionary/{part}/{start}", text=text))
    return _from_package(
        "dictionary", package, "WordNet-3.0", licence_stanza(package, "WordNet3.0"), documents
    )


def wordnet_entry(line: str) -> str:
    """Turn a line of a WordNet data file into `word, synonym (noun): definition; "example"`."""
    fields, _, gloss = line.partition(" | ")
    columns = fields.split(" ")
    num_words = int(columns[3], 16)
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in columns[4 : 4 + 2 * num_words : 2]]
    return f"{', '.join(words)} ({_PARTS_OF_SPEECH[columns[2]]}): {gloss.strip()}"


def manual_pages(domain: str, language: str, cache: Path) -> Source:
    """Translated manual pages of one language."""
    package = fetch_package(f"manpages-{language}", cache)
    root = package.root / "usr/share/man" / language
    documents = []
    for path in sorted(root.rglob("*.gz")):
        if path.is_symlink():
            continue
        source = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
        text, page = troff_to_text(source), path.name.removesuffix(".gz")
        if text is not None and len(text) > 400:
            notice = "\n".join([page_comments(source), translators(package, language, page)])
            documents.append(Document(name=f"{domain}/{page}", text=text, notice=notice.strip("\n")))
    licence = "GPL-3+ (translations); each page also under its original's licence"
    return _from_package(domain, package, licence, gpl_3(), documents)


def sql_documentation(cache: Path) -> Source:
    """The PostgreSQL manual."""
    package = fetch_package("postgresql-doc-15", cache)
    root = package.root / "usr/share/doc/postgresql-doc-15/html"
    documents = [
        Document(name=f"sql/{path.stem}", text=html_to_text(path.read_text(encoding="utf-8")))
        for path in sorted(root.glob("*.html"))
        if not path.stem.startswith(("release", "bookindex", "features", "errcodes", "acronyms"))
    ]
    return _from_package("sql", package, "PostgreSQL", licence_stanza(package, "PostgreSQL"), documents)


def arithmetic(recipe: Recipe) -> Source:
    """Generated problems."""
    documents = arithmetic_documents(
        num_documents=recipe.num_arithmetic_documents,
        held_out_fraction=recipe.held_out_fraction,
        seed=recipe.seed,
    )
    return Source(domain="arithmetic", origin="generated by tools/text_model/arithmetic.py", version="-",
                  licence="CC0-1.0", licence_text="", documents=list(documents))  # fmt: skip


def gather_sources(recipe: Recipe, cache: Path) -> Iterator[Source]:
    """Every domain in turn, each with the documents worth keeping."""
    gatherers: Iterable[Callable[[], Source]] = (
        python_code, lambda: go_code(cache), lambda: scripture(cache), lambda: dictionary(cache),
        lambda: manual_pages("german", "de", cache), lambda: manual_pages("french", "fr", cache),
        lambda: sql_documentation(cache), lambda: arithmetic(recipe),
    )  # fmt: skip
    for gather in gatherers:
        yield gather()


def _from_package(
    domain: str, package: Package, licence: str, licence_text: str, documents: list[Document]
) -> Source:
    return Source(
        domain=domain, origin=f"Debian package `{package.name}`", version=package.version, licence=licence,
        licence_text=licence_text, documents=documents,
    )  # fmt: skip


def _read(path: Path) -> str:
    return squeeze_blank_lines(path.read_text(encoding="utf-8", errors="replace"))
