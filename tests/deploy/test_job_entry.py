"""The entry script where it starts nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pseudoris.cli import main as cli_main
from pseudoris.deploy.job_entry import main
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import local_path

ROOT = Path(__file__).parents[2]


@pytest.fixture
def words(monkeypatch):
    """The command line that the command would see."""
    seen = []
    monkeypatch.setattr(cli_main, "main", lambda: seen.extend(sys.argv))
    monkeypatch.setattr(sys, "argv", ["annotate.py"])
    return seen


def test_it_is_annotate_on_the_cluster_that_it_runs_on_unless_a_later_address_names_another(words):
    main(["in", "out", "--address", "head:6379"])
    assert words == ["pseudoris", "annotate", "--address", "auto", "in", "out", "--address", "head:6379"]


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


@pytest.mark.slow
def test_exit_codes_of_the_command_pass_through(tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            str(ROOT / "deploy" / "job_entry.py"),
            "--preset=tiny",
            str(tmp_path / "nowhere"),
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr


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
