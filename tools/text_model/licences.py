"""The licence texts and notices that travel with the held-out text."""

import platform
import re
from pathlib import Path

from tools.errors import RecipeError
from tools.text_model.packages import Package


def licence_stanza(package: Package, name: str) -> str:
    """The text of one licence from the package's copyright file (Debian's machine-readable format).

    Raises `RecipeError` when the file does not spell it out.
    """
    copyright_text = package.copyright_file.read_text(encoding="utf-8")
    bodies: list[str] = re.findall(
        rf"^License: {re.escape(name)}\n((?: .*\n)+)", copyright_text + "\n", re.MULTILINE
    )
    if not bodies:
        raise RecipeError(f"{package.copyright_file} holds no text of the licence {name!r}")
    lines = max(bodies, key=len).splitlines()
    return "\n".join("" if line.strip() == "." else line[1:] for line in lines) + "\n"


def python_licence(stdlib: Path) -> str:
    """The licence of the running interpreter's standard library."""
    version = ".".join(platform.python_version_tuple()[:2])
    places = (stdlib / "LICENSE.txt", Path(f"/usr/share/doc/python{version}/copyright"))
    return _first_text(places, "the licence of Python")


def gpl_3() -> str:
    """The GNU General Public License, version 3, as every Debian system holds it."""
    return _first_text(
        (Path("/usr/share/common-licenses/GPL-3"),), "the GNU General Public License, version 3"
    )


def page_comments(troff: str) -> str:
    """The comments a manual page starts with, where its authors state their copyright and licence."""
    lines = []
    for line in troff.split("\n"):
        if line.strip() and not re.match(r"""^[.']\s*\\"|^'\\" """, line):
            break
        lines.append(re.sub(r"""^[.']\s*\\"\s?""", "", line).rstrip())
    kept = [line for line in lines if "po4a" not in line and not re.fullmatch(r"[*\s]*|t|-\*-.*-\*-", line)]
    return "\n".join(kept)


def translators(package: Package, language: str, page: str) -> str:
    """The copyright lines of a translated page, from the package's copyright file; empty if it names none."""
    entry = re.escape(f"po/{language}/man{page.rpartition('.')[2][0]}/{page}.po")
    copyright_text = package.copyright_file.read_text(encoding="utf-8")
    for paragraph in copyright_text.split("\n\n"):
        if re.search(rf"{entry}(\s|$)", paragraph):
            holders = re.findall(r"©.*", paragraph)
            return "\n".join(["Translation:", *(f"  {holder}" for holder in holders)])
    return ""


def _first_text(places: tuple[Path, ...], what: str) -> str:
    for place in places:
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise RecipeError(f"{what} was not found at {' or '.join(map(str, places))}")
