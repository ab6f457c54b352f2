"""Names that worked before version 0.2: an error names the new form, without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "images", "store", "workers", "pipeline", "training", "synthworld", "viewer", "audit", "cli")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def old_plugin(tmp_path):
    """A proposer as it was written for an older version; its folder is to be on the path."""
    (tmp_path / "old_plugin.py").write_text(
        "from workers.boundary import apply_to_images\n\nclass Old:\n    pass\n", encoding="utf-8"
    )
    info = tmp_path / "old_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: old-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[pseudoris.proposers]\nold = old_plugin:Old\n", encoding="utf-8")
    return tmp_path


# In a clone's root Python finds the folder `workers` itself.
@pytest.mark.parametrize("is_in_clone", [False, True])
def test_a_plug_in_with_a_bare_import_is_told_the_new_one(old_plugin, is_in_clone, monkeypatch):
    (old_plugin / "images").mkdir()
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    monkeypatch.setattr(sys, "path", [str(old_plugin), *([str(ROOT)] if is_in_clone else []), *elsewhere])
    folders = (str(old_plugin / "images"), str(old_plugin / "out"))
    ended = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["doctor", *folders, "--set", "masks.engine=old"])
    assert (ended.exit_code, type(ended.exception)) == (1, SystemExit)
    assert ended.output.count("it imports workers; import pseudoris.workers instead") == 1
    # The folder's own error says the same.
    assert "is not a package of its own" not in ended.output
    assert "pseudoris.workers.faults.quarantine" in ended.output


def test_in_a_clone_a_bare_name_is_no_second_copy_of_ours():
    code = (
        "import importlib, sys\n"
        "for room in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(room)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    ended = run("-c", code, *ROOMS, cwd=ROOT)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        f"{room!r} is not a package of its own: import pseudoris.{room}" for room in ROOMS
    ]


@pytest.mark.parametrize("name", ["listener.yaml", "listener-composer.yaml", "vote.yaml"])
def test_a_moved_example_is_named_at_its_new_place(name):
    assert (ROOT / "examples" / name).is_file()
    with pytest.raises(ConfigError, match=rf"docs/{name}: no such file; it has moved: use --config examples/{name}$"):
        load_config("tiny", f"docs/{name}")
    with pytest.raises(ConfigError, match=r"no such file$"):
        load_config("tiny", f"mine/{name}")
