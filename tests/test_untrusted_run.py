"""An untrusted run is data: reading it imports no module that its header names, and opens nothing but its SOURCE."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pseudoris
from pseudoris.cli.gallery import write_pages
from pseudoris.interchange.dataset.image_reader import ImageBytes
from pseudoris.interchange.exports import EXPORTS
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.reports.data_card import write_datacard
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import pseudoris_here
from tests.builders.hostile_plugin import hostile
from tests.builders.seals import forge_header
from tests.viewer.builders import annotated, quarantined_because, write_run

SAID = [(0, "a red circle", 1.5, None)]
PLUGIN = "a_strangers_module"
HOSTILE = "a\x1b]0;owned\x07\x9b31m\u202egnp\u2066.\x7f"
SPELLED = r"a\x1b]0;owned\x07\x9b31m\u202egnp\u2066.\x7f"
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
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
    ("tile", "column"),
    [
        ({"picture_size": (60, 90)}, "tile_xyxy_px None"),
        ({"picture_size": (60, 90), "tile_xyxy_px": (1, 2)}, r"tile_xyxy_px \[1, 2\]"),
        ({"picture_size": (60, 90), "tile_xyxy_px": (0, 30, 90, 30)}, r"tile_xyxy_px \[0, 30, 90, 30\]"),
        ({"picture_size": (60, 90), "tile_xyxy_px": (0, 0, 60, 90)}, r"tile_xyxy_px \[0, 0, 60, 90\]"),
        ({"picture_size": (2**31 - 1,) * 2, "tile_xyxy_px": (0, 0, 9, 9)}, r"picture_size \[2147483647, 2147483647\]"),
    ],
)
def test_a_tile_that_is_no_part_of_a_picture_is_refused(tmp_path, tile, column):
    run = write_run(
        tmp_path / "run", ("a.png", lambda entry: replace(annotated(entry, 1, SAID), picture="big.png", **tile))
    )
    write_manifest(run)
    shown = pseudoris_here("export", run.root, str(tmp_path / "to"), "--format", "coco", code=2)
    assert re.search(f"has the {column}, which no run writes", shown.stderr)


@pytest.mark.parametrize(
    "words",
    [
        *("stats", "status", "verify", "sample -n 1", "gc"),
        *("refilter {here}/refiltered --tau 1.3", "export {here}/export --format parquet"),
    ],
)
def test_a_command_that_reads_no_picture_does_not_need_its_plug_ins(run, tmp_path, words):
    command, *others = (word.format(here=tmp_path) for word in words.split())
    pseudoris_here(command, run.root, *others, code=0)


def test_its_gallery_shows_what_can_be_read_and_says_how_to_read_the_rest(run, tmp_path):
    shown = pseudoris_here("gallery", run.root, code=0)
    assert NEEDED in shown.stderr
    assert f"--plugin {PLUGIN}" in shown.stderr
    assert len(list((tmp_path / "run" / "gallery" / "pictures").iterdir())) == 1


@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"parquet"}))
def test_an_export_of_pictures_is_refused_at_the_first_that_needs_a_plug_in(run, tmp_path, name):
    shown = pseudoris_here("export", run.root, str(tmp_path / name), "--format", name, code=2)
    assert NEEDED in shown.stderr


def test_a_training_is_refused_at_the_first_picture_that_needs_a_plug_in(run):
    images = ImageBytes(run, require_header(run))
    rows = images.of_shard(0, OpenRun.at(run).table(IMAGES, images.columns))
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
        next(PlannedImages(run, header).read(0, ["a.png"]))


class Shown(HTMLParser):
    """What a browser shows of a page: its texts and attributes, and the strings of its records of JSON."""

    def __init__(self, page):
        super().__init__()
        self.texts, self._is_json = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.texts += [value for _, value in attrs if value]
        self._is_json = ("type", "application/json") in attrs

    def handle_data(self, data):
        self.texts += strings(json.loads(data)) if self._is_json and data.strip() else [data]


def strings(value):
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inside for text in strings(each)]


@pytest.fixture
def hostile_run(tmp_path):
    """A run whose every text holds control characters and signs of direction."""
    words = [(0, HOSTILE, 1.5, None, {"head_noun": HOSTILE}), (0, "a red circle", 1.4, None)]
    location = write_run(
        tmp_path / "run",
        (f"{quote(HOSTILE)}.png", lambda entry: annotated(entry, 1, words)),
        ("a.png", quarantined_because(HOSTILE)),
        settings=["shards.embed_images=true"],
        seconds={HOSTILE: 1.0},
        source=HOSTILE,
    )
    write_manifest(location)
    return location


def test_its_pages_show_no_control_character_and_no_sign_of_direction(hostile_run):
    write_pages(hostile_run.root)
    for name in ("gallery/index.html", "gallery/quality.html"):
        shown = Shown(hostile_run.read_bytes(name).decode())
        assert [text for text in shown.texts if FORBIDDEN.search(text)] == []
        assert any(SPELLED in text for text in shown.texts)


@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"pseudo-ris-csv"}))
def test_no_file_for_people_and_no_json_of_an_export_holds_one(hostile_run, tmp_path, name):
    pseudoris_here("export", hostile_run.root, str(tmp_path / name), "--format", name, code=0)
    files = [each for each in (tmp_path / name).rglob("*") if each.suffix in (".json", ".md", ".txt", ".tar")]
    assert files
    for file in files:
        # A tar holds pictures and zeros as well: of it the sequence of ESC that would set a title.
        found = b"\x1b]0;" in file.read_bytes() if file.suffix == ".tar" else FORBIDDEN.search(file.read_text())
        assert not found, file


def test_the_api_reads_its_tables(run):
    assert pseudoris.open_run(run.root).images().count_rows() == 2
    assert not pseudoris.verify(run.root).problems


FORGED = {
    "runs": {"rle_counts": "zzz"},
    "runs that wrap around": {"rle_counts": "0P6"},
    "an area": {"area_px": 7},
    "a box": {"box_xyxy_px": (0, 0, 2**31 - 1, 2**31 - 1)},
    "a size": {"rle_size": (90, 60)},
    "a huge size": {"rle_size": (2**31 - 1, 2**31 - 1)},
    "an id": {"mask_id": "../../outside"},
}


def forged_run(folder, *, rival=None, **changes):
    """A run of which a mask, or a rival, is none that a run writes; all digests match."""

    def made(entry):
        image = annotated(entry, 2, [(0, "a red circle", 1.5, 1), (1, "a blue circle", 1.5, 0)])
        first = replace(image.masks[0], **changes)
        said = (replace(each, rival_mask_id=rival or each.rival_mask_id) for each in image.expressions)
        named = {image.masks[0].mask_id: first.mask_id}
        targets = (replace(each, target_mask_ids=tuple(named.get(m, m) for m in each.target_mask_ids)) for each in said)
        return replace(image, masks=(first, *image.masks[1:]), expressions=tuple(targets))

    location = write_run(folder / "run", ("a.png", made), settings=["shards.embed_images=true"])
    write_manifest(location)
    return location


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize(
    "words", ["export {run} {to} --format refer", "export {run} {to} --format odvg", "gallery {run}"]
)
def test_what_no_run_writes_is_refused_with_its_place_and_verify(tmp_path, forged, words):
    run = forged_run(tmp_path, **FORGED[forged])
    shown = pseudoris_here(*(word.format(run=run.root, to=tmp_path / "to") for word in words.split()), code=2)
    assert re.search(r"of shard 0 of .*run", shown.stderr)
    assert "Run `pseudoris verify`" in shown.stderr
    pseudoris_here("verify", run.root, code=1)


@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"parquet"}))
def test_no_export_takes_a_mask_that_does_not_decode(tmp_path, name):
    run = forged_run(tmp_path, rle_counts="zzz")
    shown = pseudoris_here("export", run.root, str(tmp_path / name), "--format", name, code=2)
    assert "does not decode" in shown.stderr


def test_a_rival_that_is_no_mask_of_the_image_is_refused(tmp_path):
    run = forged_run(tmp_path, rival="<script>")
    assert "rival_mask_id '<script>'" in pseudoris_here("gallery", run.root, code=2).stderr


def test_a_data_set_takes_no_mask_that_does_not_decode(tmp_path):
    run = forged_run(tmp_path, rle_counts="zzz")
    with pytest.raises(ConfigError, match=r"does not decode.*verify"):
        pseudoris.RisDataset(run.root)[0]


def test_a_text_that_is_not_utf_8_damages_its_part(tmp_path):
    run = forged_run(tmp_path)
    (part,) = (tmp_path / "run" / "expressions").iterdir()
    data = part.read_bytes()
    table = pq.read_table(part)
    text = pa.array([b"\xff\xfe"] * table.num_rows).view(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(text), text.buffers())
    pq.write_table(table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), broken), part)
    assert part.read_bytes() != data
    shown = pseudoris_here("export", run.root, str(tmp_path / "to"), "--format", "coco", code=2)
    assert "cannot be read as Parquet" in shown.stderr


MARKUP = "1.0](http://e.example) <img src=x onerror=alert(1)>\n# A heading\n\x1b]0;owned\x07 | cell `code"


def test_no_card_and_no_output_takes_markup_or_escapes_from_a_header(tmp_path):
    def edit(header):
        header["created_utc"] = header["config_sha256"] = MARKUP
        header["identity"] |= {"device_kind": MARKUP, "versions": {MARKUP: MARKUP}}
        header["identity"]["weights"] = {stage: MARKUP for stage in ("propose", "caption", "filter", MARKUP)}

    run = forged_run(tmp_path)
    forge_header(run, edit)
    write_manifest(run)
    write_datacard(run)
    pseudoris_here("export", run.root, str(tmp_path / "hf"), "--format", "hf", code=0)
    for card in (run.read_bytes("DATACARD.md").decode(), (tmp_path / "hf" / "README.md").read_text()):
        assert "A heading" in card
        assert not FORBIDDEN.search(card)
        assert "\n# A heading" not in card
        # Code spans show markup as it is written.
        assert not re.search(r"<img|\]\(http", re.sub("`[^`\n]*`", "", card))
    for words in ("status", "stats", "verify", "next", "sample -n 1"):
        command, *others = words.split()
        shown = pseudoris_here(command, run.root, *others)
        assert not FORBIDDEN.search(shown.stdout + shown.stderr), words
