"""The package as a wheel, and an environment that has it and nothing else of this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The package has a link to each.
ROOMS = tuple(sorted(path.name for path in (ROOT / "pseudoris").iterdir() if path.is_symlink()))


def copy_source(source: Path) -> Path:
    """Copy what a wheel is built from into `source`."""
    for name in ("pseudoris", *ROOMS):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the source distribution, in a copy."""
    source = copy_source(folder / "source")
    pack = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", pack], cwd=source, check=True, capture_output=True)
    (packed,) = folder.glob("pseudoris-*.tar.gz")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(packed))
    (wheel,) = folder.glob("pseudoris-*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path, *paths: Path) -> Path:
    """Make a virtual environment with the wheel, and return its interpreter.

    Everything that the wheel needs comes from the environment of this process, behind it on the path; that one's
    editable install is not seen, because only its folders are named. `paths` are added too.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (site,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "behind.pth").write_text("\n".join([*here, *map(str, paths)]) + "\n")
    return python


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, capture_output=True, text=True)
