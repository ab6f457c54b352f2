"""`annotate --retry-failed`, `--extend`, `--allow-mixed`, and `estimate`, as a user meets them; with stub engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import read_header
from tests.builders.command import invoke
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import SMALL, STUBS, stub_config, write_source
from tests.builders.seals import forge_header

SETTINGS = [word for assignment in (*STUBS, *SMALL) for word in ("--set", assignment)]


def annotated(source: Path, out: Path, *words: str) -> str:
    return invoke("annotate", "--preset=tiny", source, out, *words, *SETTINGS, columns=300).output


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
    dry = annotated(source, out, "--extend", "--dry-run")
    assert "8 images in 2 shards; 0 planned images changed, 0 missing" in dry
    extended = annotated(source, out, "--extend")
    assert "SOURCE has 8 new images, planned in 2 new shards" in extended
    assert "9 of 9" in extended
    assert "3 quarantined" in extended

    dry = annotated(source, out, "--retry-failed", "--dry-run")
    assert "3 quarantined images" in dry
    retried = annotated(source, out, "--retry-failed", "--retry-reasons", "corrupt,empty_file")
    assert "2 images, 0 recovered; 0 of " in retried

    location = RunLocation.open(str(out))
    header = read_header(location)
    forge_header(location, lambda tree: tree["identity"].update(device_kind="another"))
    (source / "z.png").write_bytes(png(seed=50))
    with pytest.raises(ConfigError, match="--allow-mixed"):
        annotated(source, out, "--extend")
    mixed = annotated(source, out, "--extend", "--allow-mixed")
    assert "0 degraded and 1 mixed shards" in mixed
    assert read_header(location).num_images == header.num_images + 1
    assert "device_kind: 'another' in the run" in invoke("verify", out, columns=300).output
