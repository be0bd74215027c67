"""Debian packages as sources of free text: downloaded and unpacked into a cache, never installed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Package:
    """An unpacked Debian package."""

    name: str
    version: str
    root: Path

    @property
    def copyright_file(self) -> Path:
        """Where the package states its licences."""
        return self.root / "usr/share/doc" / self.name / "copyright"


def fetch_package(name: str, cache: Path) -> Package:
    """Return the package, downloading and unpacking it if the cache lacks it.

    Raises `RecipeError` when a tool is missing or the package cannot be downloaded.
    """
    archives = cache / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RecipeError(
                f"the recipe needs {tool!r}, which was not found; it runs on Debian and its kin"
            )
    if not list(archives.glob(f"{name}_*.deb")):
        _run(["apt-get", "download", name], cwd=archives, hint="try `apt-get update` first")
    archive = sorted(archives.glob(f"{name}_*.deb"))[-1]
    version = _run(["dpkg-deb", "--field", archive.name, "Version"], cwd=archives).strip()
    root = cache / "unpacked" / name
    if not root.exists():
        partial = root.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        _run(["dpkg-deb", "--extract", archive.name, str(partial.resolve())], cwd=archives)
        partial.rename(root)
    return Package(name=name, version=version, root=root)


def _run(command: list[str], *, cwd: Path, hint: str = "") -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = done.stderr.strip() or done.stdout.strip()
        raise RecipeError(
            f"{' '.join(command)!r} failed with code {done.returncode}: {message} {hint}".strip()
        )
    return done.stdout
