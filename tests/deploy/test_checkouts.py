"""A checkout loads its own code, whatever its environment, and says so where links or an environment lack."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.wheel import ROOMS, ROOT


def checkout(folder: Path, *, has_links: bool = True) -> Path:
    """Copy what `git checkout` writes of the package, its links as files where they cannot be made."""
    for name in ROOMS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "pseudoris", folder / "pseudoris", symlinks=True)
    (folder / "Makefile").touch()
    for name in ROOMS if not has_links else ():
        (folder / "pseudoris" / name).unlink()
        (folder / "pseudoris" / name).write_text(f"../{name}")
    return folder


def python(at: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=at, capture_output=True, text=True, check=False)


def test_a_second_checkout_with_the_environment_of_this_one_loads_its_own_code(tmp_path):
    at = checkout(tmp_path / "second")
    ended = python(at, "-c", "import pseudoris.store.location as loaded; print(loaded.__file__)")
    assert ended.stderr == ""
    assert Path(ended.stdout.strip()).resolve() == at / "store" / "location.py"


@pytest.mark.parametrize("words", [("-m", "pseudoris", "--help"), ("-c", "import pseudoris")])
def test_a_checkout_without_links_is_refused_with_what_makes_them(tmp_path, words):
    ended = python(checkout(tmp_path / "without", has_links=False), *words)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "ImportError: the folder pseudoris/ has no links to its rooms" in ended.stderr.splitlines()[-1]
    assert words[0] == "-c" or ended.stderr.count("\n") == 1


def test_a_clone_without_an_environment_is_told_to_make_one(tmp_path):
    ended = python(checkout(tmp_path / "clone"), "-S", "-m", "pseudoris", "--help")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: no module ")
    assert "run `make install`" in ended.stderr
