"""What a start without its code says: the entry script of a job, and a checkout without links or an environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pseudoris.cli import main as cli_main
from pseudoris.deploy.job_entry import main
from pseudoris.files.location import local_path
from pseudoris.primitives.errors import ConfigError
from tests.builders.wheel import ROOMS, ROOT


def test_it_is_annotate_on_the_cluster_that_it_runs_on_unless_a_later_address_names_another(monkeypatch):
    seen = []
    monkeypatch.setattr(cli_main, "main", lambda: seen.extend(sys.argv))
    monkeypatch.setattr(sys, "argv", ["annotate.py"])
    main(["in", "out", "--address", "head:6379"])
    assert seen == ["pseudoris", "annotate", "--address", "auto", "in", "out", "--address", "head:6379"]
    monkeypatch.setattr(cli_main, "main", lambda: sys.exit(2))
    with pytest.raises(SystemExit, match="2"):
        main(["in", "out"])


def test_without_the_package_it_says_what_to_install_and_where(tmp_path):
    # As `ray submit` leaves it: alone in a folder, under a Python that knows no site-packages.
    script = tmp_path / "annotate.py"
    script.write_bytes((ROOT / "deploy" / "job_entry.py").read_bytes())
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "in", "out"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: No module named 'pseudoris', for {sys.executable} on ")
    assert '"py_modules": ["dist/pseudoris-' in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("word", ["photos", "./out", "file://out"])
def test_a_relative_path_in_a_ray_job_is_refused_with_what_it_would_be(word, tmp_path, monkeypatch):
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    with pytest.raises(
        ConfigError, match=rf"is a relative path: in this Ray job it would be {re.escape(str(folder))}/.*s3://"
    ):
        local_path(word)
    (folder / "shared").symlink_to(tmp_path)
    assert local_path("shared/out") == folder / "shared" / "out"
    assert (local_path("/shared/out"), local_path("s3://bucket/out")) == (Path("/shared/out"), None)


def test_elsewhere_a_relative_path_is_one_below_the_working_folder_in_a_ray_job_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert local_path("photos") == tmp_path / "photos"


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
    ended = python(at, "-c", "import pseudoris.files.location as loaded; print(loaded.__file__)")
    assert ended.stderr == ""
    assert Path(ended.stdout.strip()).resolve() == at / "files" / "location.py"


@pytest.mark.parametrize("words", [("-m", "pseudoris", "--help"), ("-c", "import pseudoris")])
def test_a_checkout_without_links_is_refused_with_what_makes_them(tmp_path, words):
    ended = python(checkout(tmp_path / "without", has_links=False), *words)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "ImportError: the folder pseudoris/ has no links to its rooms" in ended.stderr.splitlines()[-1]
    assert words[0] == "-c" or ended.stderr.count("\n") == 1


def test_a_clone_without_an_environment_is_told_to_make_one(tmp_path):
    ended = python(checkout(tmp_path / "clone"), "-S", "-m", "pseudoris", "--help")
    assert ended.returncode == 2
    assert re.match("error: no module .*run `make install`", ended.stderr)
