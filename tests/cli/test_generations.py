"""`annotate --retry-failed`, `--extend`, `--allow-mixed`, and `estimate`, as a user meets them; with stub engines."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import read_header
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import SMALL, STUBS, stub_config, write_source
from tests.builders.seals import forge_header

SETTINGS = [word for assignment in (*STUBS, *SMALL) for word in ("--set", assignment)]


def invoke(*arguments: str):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [*arguments, *SETTINGS], catch_exceptions=False)


@pytest.fixture
def run(ray_session, tmp_path):
    """A finished run of the first image of its source; source and output."""
    source, out = write_source(tmp_path / "in", num_images=6), tmp_path / "out"
    work_off(source, out, stub_config(), limit=1)
    return source, out


@pytest.mark.long
@pytest.mark.ray
def test_extend_then_retry_then_mixed(run):
    source, out = run
    dry = invoke("annotate", str(source), str(out), "--extend", "--dry-run")
    assert "8 images in 2 shards; 0 planned images changed, 0 missing" in dry.output
    extended = invoke("annotate", str(source), str(out), "--extend")
    assert extended.exit_code == 0, extended.output
    assert "SOURCE has 8 new images, planned in 2 new shards" in extended.output
    assert "9 of 9" in extended.output
    assert "3 quarantined" in extended.output

    dry = invoke("annotate", str(source), str(out), "--retry-failed", "--dry-run")
    assert "3 quarantined images" in dry.output
    retried = invoke("annotate", str(source), str(out), "--retry-failed", "--retry-reasons", "corrupt,empty_file")
    assert retried.exit_code == 0, retried.output
    assert "2 images, 0 recovered; 0 of " in retried.output

    location = RunLocation.open(str(out))
    header = read_header(location)
    forge_header(location, lambda tree: tree["identity"].update(device_kind="another"))
    (source / "z.png").write_bytes(png(seed=50))
    with pytest.raises(ConfigError, match="--allow-mixed"):
        invoke("annotate", str(source), str(out), "--extend")
    mixed = invoke("annotate", str(source), str(out), "--extend", "--allow-mixed")
    assert mixed.exit_code == 0, mixed.output
    assert "0 degraded and 1 mixed shards" in mixed.output
    assert read_header(location).num_images == header.num_images + 1
    verified = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["verify", str(out)])
    assert verified.exit_code == 0, verified.output
    assert "device_kind: 'another' in the run" in verified.output
