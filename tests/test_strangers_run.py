"""A stranger's run is data: reading it imports no module that its header names, and opens nothing but its SOURCE."""

from __future__ import annotations

import sys

import pytest

import pseudoris
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sources.planned_images import PlannedImages
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.dataset.image_reader import ImageBytes
from pseudoris.training.exports import EXPORTS
from tests.builders.command import pseudoris_here
from tests.builders.hostile_plugin import hostile
from tests.viewer.builders import annotated, write_run

SAID = [(0, "a red circle", 1.5, None)]
PLUGIN = "a_strangers_module"
NEEDED = "a run is data, and its header imports no module"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose header names a module that is there to import; its second image needs that module's format."""
    (tmp_path / f"{PLUGIN}.py").write_text("raise SystemExit('the module of a stranger has run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    location = write_run(
        tmp_path / "run",
        ("a.png", lambda entry: annotated(entry, 1, SAID)),
        ("b.hostile", lambda entry: annotated(entry, 1, SAID, data=hostile("nothing"))),
        settings=[f"images.decoder_plugins=[{PLUGIN}]", "shards.embed_images=true"],
    )
    write_manifest(location)
    yield location
    assert PLUGIN not in sys.modules


@pytest.mark.parametrize(
    "words",
    [
        *("stats", "status", "verify", "sample -n 1", "gc"),
        *("refilter {here}/refiltered --tau 1.3", "export {here}/export --format parquet"),
    ],
)
def test_a_command_that_reads_no_picture_does_not_need_its_plug_ins(run, tmp_path, words):
    command, *others = words.format(here=tmp_path).split()
    shown = pseudoris_here(command, run.root, *others)
    assert shown.returncode == 0, shown.stderr


def test_its_gallery_shows_what_can_be_read_and_says_how_to_read_the_rest(run, tmp_path):
    shown = pseudoris_here("gallery", run.root)
    assert shown.returncode == 0
    assert NEEDED in shown.stderr
    assert f"--plugin {PLUGIN}" in shown.stderr
    assert len(list((tmp_path / "run" / "gallery" / "pictures").iterdir())) == 1


@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"parquet"}))
def test_an_export_of_pictures_is_refused_at_the_first_that_needs_a_plug_in(run, tmp_path, name):
    shown = pseudoris_here("export", run.root, str(tmp_path / name), "--format", name)
    assert shown.returncode == 2
    assert NEEDED in shown.stderr


def test_a_training_is_refused_at_the_first_picture_that_needs_a_plug_in(run):
    images = ImageBytes(run, require_header(run))
    rows = images.of_shard(0, read_table(run, IMAGES, images.columns))
    assert images.decode(rows, 0).shape == (3, 60, 90)
    with pytest.raises(ConfigError, match=NEEDED):
        images.decode(rows, 1)


def test_a_plug_in_that_the_user_names_is_imported(run, tmp_path):
    (tmp_path / f"{PLUGIN}.py").write_text("import tests.builders.hostile_plugin")
    try:
        shown = pseudoris_here("gallery", run.root, "--plugin", PLUGIN)
        assert NEEDED not in shown.stderr
        assert len(list((tmp_path / "run" / "gallery" / "pictures").iterdir())) == 2
    finally:
        del sys.modules[PLUGIN]


@pytest.mark.parametrize("source", ["ssh://host/x", "simplecache::s3://b/x", "tar://a.tar::/etc", "file://file:///etc"])
def test_its_source_opens_no_chain_and_no_unknown_protocol(run, source):
    header = require_header(run).model_copy(update={"source": source})
    with pytest.raises(ConfigError, match=r"the run's header names SOURCE .* name the place yourself"):
        PlannedImages(run, header)(0, "a.png")


def test_the_api_reads_its_tables(run):
    assert pseudoris.open_run(run.root).images().count_rows() == 2
    assert not pseudoris.verify(run.root).problems
