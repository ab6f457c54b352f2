"""What looks at a run and tidies it, on a run in a bucket: the endpoint comes from the environment."""

from __future__ import annotations

import json

import pyarrow.dataset as ds
import pytest

from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.garbage import remove_run
from pseudoris.store.runs.lock import RunLock
from tests.builders.command import invoke
from tests.store.builders import commit, start_run


@pytest.fixture
def location(s3_server, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    return RunLocation.open(f"s3://{s3_bucket}/a run")


def printed(*words: str) -> str:
    return invoke(*words).output


@pytest.mark.slow
def test_status_parts_gc_and_export_of_a_run_in_a_bucket(location, tmp_path, s3_bucket):
    header = start_run(location)
    lock = RunLock.acquire(location)
    commit(location, header, 0, 1)
    found = json.loads(printed("status", location.root, "--json"))
    assert (found["num_done"], found["driver"]["state"]) == (2, "alive")
    # The times of the receipts are the store's own.
    assert found["rates"]["overall"] > 0
    commit(location, header, 2)
    commit(location, header, 1, generation=1)
    lock.release()
    assert "complete" in printed("status", location.root, "--watch")

    assert len(printed("parts", location.root, "--table", "all").splitlines()) == 12
    assert "4 files deleted" in printed("gc", location.root)
    assert sum(1 for table in SCHEMAS for _ in location.list(table)) == 12

    for target in (str(tmp_path / "export"), f"s3://{s3_bucket}/export"):
        assert "written, and checked by reading it back" in printed("export", location.root, target)
    local = {path.name: path.read_bytes() for path in (tmp_path / "export" / "masks").iterdir()}
    remote = RunLocation.open(f"s3://{s3_bucket}/export")
    assert {file.name: remote.read_bytes(f"masks/{file.name}") for file in remote.list("masks")} == local
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 12

    remove_run(location)
    assert not any(
        list(location.list(folder)) for folder in ("", "_plan", "_plan/g0001", "_receipts", "_lock", *SCHEMAS)
    )
    assert remote.exists("_export.json")
