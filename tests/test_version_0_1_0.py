"""What version 0.1.0 wrote stays usable: a finished run, and one whose driver was killed.

That version wrote the files of `fixtures/version_0_1_0` over the images beside them. `digests.json` holds what it made
of them: the killed run completed, and a refilter and an export of the finished one. Column docs and failure messages
have changed since, so tables are compared by their rows, without messages.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.pipeline.annotation import annotate
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.engine_digests import device_kind
from tests.builders.runs import stub_config

WRITTEN = Path(__file__).parent / "fixtures" / "version_0_1_0"
DIGESTS = json.loads((WRITTEN / "digests.json").read_text(encoding="utf-8"))
HALF_OPTIONS = ("shards.max_images=2", "masks.options={sleep_s: 0.7}", "compute.device=cpu")


def pseudoris(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def content(folder: Path) -> dict[str, str]:
    """Return a digest of each table's rows or file's bytes, by its path without the hash of the bytes in its name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".md")
    named = {path.relative_to(folder): path for path in paths}
    kept = {name: path for name, path in named.items() if not any(part.startswith("_") for part in name.parts)}
    return {re.sub(r"-[0-9a-f]{8}\.parquet$", "", str(name)): digest(path) for name, path in kept.items()}


def digest(path: Path) -> str:
    if path.suffix != ".parquet":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    table = pq.read_table(path)
    # They are of version 4 of the tables; nothing here has one.
    new = [name for name in table.column_names if name in ("note", "split")]
    assert all(table[name].null_count == table.num_rows for name in new)
    rows = table.drop_columns([*new, *(name for name in table.column_names if name == "message")]).to_pylist()
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


def copied(name: str, folder: Path) -> Path:
    """Return a copy of a run whose header names its images here, with their times, and this machine's processor."""
    out = shutil.copytree(WRITTEN / name, folder / name)
    source = shutil.copytree(WRITTEN / "source", folder / "source", dirs_exist_ok=True)
    for part in (out / "_plan").rglob("*.parquet"):
        for row in pq.read_table(part, columns=["key", "mtime_ns"]).to_pylist():
            os.utime(source / row["key"], ns=(row["mtime_ns"], row["mtime_ns"]))
    header = json.loads((out / "_run.json").read_text(encoding="utf-8"))
    header["source"] = str(source)
    header["identity"]["device_kind"] = device_kind(stub_config(*HALF_OPTIONS).compute)
    (out / "_run.json").write_text(json.dumps(header), encoding="utf-8")
    return out


def test_a_finished_run_opens_and_verifies(tmp_path):
    out = copied("finished", tmp_path)
    assert json.loads(pseudoris("status", out, "--json"))["is_complete"]
    pseudoris("verify", out)
    assert len(json.loads(pseudoris("stats", out, "--json"))) > 3


@pytest.mark.slow
def test_a_finished_run_refilters_and_exports_to_the_same_content(tmp_path):
    out = copied("finished", tmp_path)
    pseudoris("refilter", out, tmp_path / "refiltered", "--tau", 1.2)
    assert content(tmp_path / "refiltered") == DIGESTS["refiltered"]
    pseudoris("export", out, tmp_path / "exported", "--format", "coco")
    assert content(tmp_path / "exported") == DIGESTS["exported"]


@pytest.mark.ray
def test_a_half_finished_run_is_refused_by_name_and_resumes_if_versions_may_mix(ray_session, tmp_path):
    out = copied("half", tmp_path)
    source = str(tmp_path / "source")
    with pytest.raises(ConfigError, match=rf"versions\.pseudoris: '0\.1\.0' in the run, '{version('pseudoris')}' now"):
        annotate(source, str(out), stub_config(*HALF_OPTIONS))
    summary = annotate(source, str(out), stub_config(*HALF_OPTIONS, "placement.allow_mixed=true"))
    assert (summary.num_shards_before, summary.totals.shards) == (3, 6)
    assert content(out) == DIGESTS["completed"]
