"""The package as a wheel, and an environment that has it and nothing else of this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """Build the wheel in a copy of what it is made from, so that no `build/` of earlier ones is in the way."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in set(project["package-dir"].values()):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (wheel,) = folder.glob("pseudoris-*.whl")
    return wheel


def install_wheel(wheel: Path, target: Path) -> None:
    """Put the wheel's packages into a folder for `PYTHONPATH`."""
    _pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))


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
