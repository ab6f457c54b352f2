"""`pseudoris verify` proves a run, and lists what is off."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance
from tests.builders.command import pseudoris, pseudoris_here
from tests.store.builders import commit, start_run


@pytest.mark.ray
@pytest.mark.parametrize("options", [(), ("--quick",)])
def test_a_whole_run_verifies(tiny_run, options):
    shown = pseudoris_here("verify", str(tiny_run.out), *options)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "no problem found in any shard" in shown.stdout


@pytest.mark.ray
def test_a_flipped_byte_is_found_and_named(tiny_run, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_run.out, damaged)
    part = next(iter(sorted((damaged / "masks").glob("*.parquet"))))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(data)
    # A process of its own, for its exit code.
    shown = pseudoris("verify", str(damaged))
    assert shown.returncode == 1
    assert part.name in shown.stdout


def test_shards_outside_promise_two_are_listed_and_are_no_fault(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    commit(location, header, 0, 1, provenance=Provenance(mixed=("device_kind: 'a' in the run, 'b' now",)))
    commit(location, header, 2, provenance=Provenance(degraded={"captions.cache_bytes": 7}))
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["verify", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "not byte-reproducible" in shown.output
    assert "2: 0–1" in shown.output
    assert "device_kind: 'a' in the run, 'b' now" in shown.output
    assert "captions.cache_bytes: 7" in shown.output


def verify(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["verify", *map(str, arguments)])


@pytest.fixture
def whole(tmp_path):
    location = RunLocation.open(str(tmp_path))
    commit(location, start_run(location), 0, 1, 2)
    return tmp_path


def test_the_root_digest_is_printed_in_one_piece_and_compared(whole):
    (root,) = re.findall(r"^root digest  ([0-9a-f]{64})$", verify(whole).output, re.MULTILINE)
    assert verify(whole, "--root", root).exit_code == 0
    other = verify(whole, "--root", "0" * 64)
    assert other.exit_code == 1
    assert "1 problem" in other.output


def test_the_report_is_one_json_object(whole):
    shown = verify(whole, "--json")
    found = json.loads(shown.stdout)
    assert (shown.exit_code, found["is_clean"], found["problems"]) == (0, True, [])
    other = verify(whole, "--json", "--root", "0" * 64)
    assert other.exit_code == 1
    assert [each["what"] for each in json.loads(other.stdout)["problems"]] == ["root"]
    assert (
        f"the root digest of the run is {found['root']}, not {'0' * 64}"
        in json.loads(other.stdout)["problems"][0]["detail"]
    )
