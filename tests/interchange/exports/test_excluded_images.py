"""An export without the images that `--exclude` names, in every format, counted by rule."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.interchange.exports import EXPORTS, ExportRequest, find_export
from pseudoris.interchange.exports.selected_rows import UNCHECKED, ExcludedImages
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.exclusions.exclusion_rules import ExclusionRecord, Exclusions, exclusion, name_value
from pseudoris.store.location import RunLocation
from pseudoris.store.sources.planned_images import PlannedImages
from pseudoris.store.tables.open_run import OpenRun
from tests.builders import images as build
from tests.interchange.exports.builders import PICTURES, build_run, png

NAMES = exclusion("names", "held-out.txt", map(name_value, ["turned.jpg", "passwd"]))
DIGESTS = exclusion("sha256", "bench.csv", [sha256_hex(png("P"))])
LOOKS = exclusion("phash", "bench", ["00" * 8], settings={"max_distance": 8})
LEFT_OUT = {"images excluded by held-out.txt (names)": 2, "images excluded by bench.csv (sha256)": 1}


def excluding(run, header, exclusions: Exclusions) -> ExcludedImages:
    return ExcludedImages(PlannedImages(run.location, header), header, exclusions)


def excluded(run, exclusions: Exclusions) -> dict[str, str]:
    images = excluding(run, run.header, exclusions)
    return {
        each: phrase for shard in OpenRun.at(run.location).shards() for each, phrase in images.of_shard(shard).items()
    }


def export(name, run, place, exclusions):
    request = ExportRequest(OpenRun.at(run.location), place, exclusions=exclusions)
    return find_export(name).write(request, lambda done, total, /, stage="": None)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTS)
def test_every_format_leaves_them_out_and_counts_them_by_rule(built_run, place, name):
    alone = export(name, built_run, place, ())
    report = export(name, built_run, RunLocation.open(f"{place.root} without"), NAMES + DIGESTS)
    assert {phrase: report.dropped[phrase] for phrase in LEFT_OUT} == LEFT_OUT
    assert sum(report.rows.values()) < sum(alone.rows.values())


def test_merged_tables_hold_no_row_of_them(built_run, place):
    report = export("parquet", built_run, place, NAMES + DIGESTS)
    gone = {image_id(key) for key, data, _ in PICTURES if "turned" in key or "passwd" in key or data == png("P")}
    assert len(gone) == 3
    for table in SCHEMAS:
        assert not gone & set(pq.read_table(f"{place.root}/{table}")["image_id"].to_pylist())
    assert json.loads(place.read_bytes("_export.json"))["dropped"] == dict(report.dropped) == LEFT_OUT


def test_copies_are_found_by_look_and_what_cannot_be_compared_is_left_out(tmp_path):
    # Pictures with details: of flat ones the hash is noise.
    pictures = tuple((f"{n}.png", build.png(40, 60, seed=n), (("a thing",),)) for n in range(3))
    run = build_run(RunLocation.open(str(tmp_path / "run")), pictures, embed=False, source=tmp_path / "in")
    copy = perceptual_hash(build.random_pixels(40, 60, seed=1))
    looks = exclusion("phash", "bench", [copy], settings={"max_distance": 4})
    by_look = "images excluded by bench (phash)"
    (tmp_path / "in" / "2.png").unlink()
    # The builder's empty image is not in SOURCE either.
    phrases = excluded(run, looks)
    assert {key: phrases.get(image_id(key)) for key, _, _ in pictures} == {
        "0.png": None,
        "1.png": by_look,
        "2.png": UNCHECKED,
    }


def test_rules_that_the_run_was_planned_with_cost_nothing_more(built_run):
    part = PartRecord(name="g0001/exclusions-00000000.parquet", rows=1, size_bytes=1, sha256="00" * 32)
    header = built_run.header.model_copy(
        update={"exclusions": ExclusionRecord(rules=LOOKS, part=part).model_dump(mode="json")}
    )
    assert not excluding(built_run, header, LOOKS)
    assert excluding(built_run, header, LOOKS + NAMES)
