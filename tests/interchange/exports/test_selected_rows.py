"""What exports are given: in plan order, within the rule, and everything left out counted with its reason."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import open_clip
import pyarrow.parquet as pq
import pytest

from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.interchange.exports import find_export, selected_rows
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.selected_rows import UNCHECKED, UNREADABLE, TextRule
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.exclusion_rules import ExclusionRecord, exclusion, name_value
from tests.builders import images as build
from tests.interchange.exports.builders import PICTURES, SEVERAL, build_run, changed_tables, jpeg, png, request_for


def wanted(run, place, rule=TextRule(), on_progress=lambda done, total: None, **request):  # noqa: B008
    job = ExportJob(ExportFormat("any", "", None, rule), replace(request_for(run, place), **request), on_progress)
    return list(job.images()), job.dropped


@pytest.mark.parametrize("limit", [3, 5, 7, 17, 24])
def test_the_limit_counts_tokens_as_open_clip_does(limit, built_run, place):
    images, _ = wanted(built_run, place, TextRule(max_tokens=limit))
    theirs = open_clip.get_tokenizer("ViT-B-32")
    fits = built_run.with_texts(lambda text: int((theirs([text]) != 0).sum()) <= limit)
    assert {image.image_id: len(image.masks) for image in images} == {key: len(masks) for key, masks in fits.items()}


def test_progress_ends_with_all_images_whether_or_not_they_were_left_out(built_run, place):
    seen = []
    wanted(built_run, place, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(PICTURES) + 1,) * 2
    assert seen == sorted(seen)


def test_an_expression_of_several_masks_goes_with_a_mask_that_has_no_pixel(run_of_several, place, monkeypatch):
    """Of three masks; "both things" is said of the first two, "all of them" of all."""
    hollow = f"{image_id(SEVERAL[0][0])}-0001"

    def emptied(image):
        return replace(image, masks=tuple(replace(m, area_px=m.area_px * (m.mask_id != hollow)) for m in image.masks))

    changed_tables(monkeypatch, emptied)
    images, dropped = wanted(run_of_several, place, TextRule(with_groups=True))
    assert (dropped[selected_rows.WITHOUT_PIXELS_OF_ONE], dropped[selected_rows.WITHOUT_PIXELS]) == (2, 1)
    assert [each.targets for each in images[0].expressions] == [(0,), (0,), (1,)]


def test_expressions_of_no_mask_are_counted_where_their_image_has_no_other(built_run, place, monkeypatch):
    def untargeted(image):
        said = [each for mask in image.masks for each in mask.expressions][:1]
        return replace(image, masks=(), untargeted=tuple(replace(each, target_mask_ids=()) for each in said))

    changed_tables(monkeypatch, untargeted)
    expected = sum(any(mask.texts for mask in image.masks) for image in built_run.truth)
    with pytest.raises(ConfigError, match=f"{expected} {selected_rows.NONE_ALONE}"):
        wanted(built_run, place, TextRule(with_none=True))


def test_an_image_that_a_trainer_cannot_resize_is_left_out_and_counted(built_run, place, monkeypatch):
    first, *others = wanted(built_run, place)[0]

    def narrowed(image):
        return replace(image, height=1, width=201) if image.image_id == first.image_id else image

    changed_tables(monkeypatch, narrowed)
    images, dropped = wanted(built_run, place, TextRule(max_side_ratio=200))
    assert [image.image_id for image in images] == [image.image_id for image in others]
    assert dropped["images with a side above 200 times the other"] == 1


@pytest.fixture
def source_run(tmp_path):
    """A run that embeds no image, whose SOURCE is a folder."""
    names = ("first", "second", "third", "fourth")
    pictures = tuple((f"{name}.jpg", jpeg(), ((f"the {name} one",),)) for name in names)
    return build_run(tmp_path / "run", pictures, embed=False, source=tmp_path / "source"), tmp_path / "source"


def test_images_that_have_moved_are_read_where_they_lie_now(source_run, place, tmp_path):
    run, source = source_run
    source.rename(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "moved/third.jpg").write_bytes(jpeg(3))
    with pytest.raises(ConfigError, match=r"does not exist\.(?s:.*)If the images were moved, say where .*--source"):
        wanted(run, place)
    (tmp_path / "sourse").mkdir()
    with pytest.raises(ConfigError, match=r"Did you mean .*sourse'?\? If the images were moved, say"):
        wanted(run, place)
    images, dropped = wanted(run, place, source=str(tmp_path / "moved"))
    assert [(image.key, image.data) for image in images] == [
        (name, jpeg()) for name in ("first.jpg", "second.jpg", "fourth.jpg")
    ]
    assert dropped[UNREADABLE] == 1


def test_images_that_are_gone_or_changed_in_source_are_left_out_and_counted(source_run, place, caplog):
    run, source = source_run
    other = jpeg()[:-1] + b"x"
    stat = (source / "first.jpg").stat()
    (source / "first.jpg").write_bytes(other)
    os.utime(source / "first.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (source / "second.jpg").unlink()
    (source / "fourth.jpg").write_bytes(other)
    with caplog.at_level("WARNING", logger="pseudoris.interchange"):
        images, dropped = wanted(run, place)
    assert [image.key for image in images] == ["third.jpg"]
    assert dropped[UNREADABLE] == 3
    assert "second.jpg is left out" in caplog.text


def test_what_no_mask_is_left_of_is_not_read(source_run, place):
    run, source = source_run
    (source / "second.jpg").unlink()
    images, dropped = wanted(run, place, TextRule(refused=("second",)))
    assert len(images) == 3
    assert dropped[UNREADABLE] == 0


# The images that `--exclude` names, counted by rule.

NAMES = exclusion("names", "held-out.txt", map(name_value, ["turned.jpg", "passwd"]))
DIGESTS = exclusion("sha256", "bench.csv", [sha256_hex(png("P"))])
LEFT_OUT = {"images excluded by held-out.txt (names)": 2, "images excluded by bench.csv (sha256)": 1}


def excluding(run, place, exclusions):
    return replace(request_for(run, place), exclusions=exclusions)


ONLY = exclusion("only", "v1.txt", map(name_value, [PICTURES[0][0], PICTURES[4][0], "elsewhere.png"]))


@pytest.mark.parametrize("name", ["coco", "parquet", "webdataset"])
def test_only_the_named_images_are_taken_less_those_that_another_rule_excludes(built_run, place, name):
    digest = exclusion("sha256", "bench.csv", [sha256_hex(PICTURES[4][1])])
    report = find_export(name).write(excluding(built_run, place, ONLY + digest), lambda *_, **__: None)
    # The builder's run also has an image without a mask, and quarantined ones.
    assert report.dropped["images that --only v1.txt does not name"] == built_run.header.num_images - 2
    assert report.dropped["images excluded by bench.csv (sha256)"] == 1
    assert [note for note in report.notes if "names" in note] == ["--only v1.txt: 1 of its 3 names are not in the run."]


@pytest.mark.parametrize("name", ["coco", "pseudo-ris-csv"])
def test_excluded_images_are_left_out_and_counted_by_rule(built_run, place, name):
    report = find_export(name).write(excluding(built_run, place, NAMES + DIGESTS), lambda *_, **__: None)
    assert {phrase: report.dropped[phrase] for phrase in LEFT_OUT} == LEFT_OUT
    assert report.rows["images" if name == "coco" else "rows"] < len(built_run.truth)


def test_merged_tables_hold_no_row_of_excluded_images(built_run, place, tmp_path):
    report = find_export("parquet").write(excluding(built_run, place, NAMES + DIGESTS), lambda *_, **__: None)
    gone = {image_id(key) for key, data, _ in PICTURES if "turned" in key or "passwd" in key or data == png("P")}
    assert len(gone) == 3
    for table in SCHEMAS:
        assert not gone & set(pq.read_table(f"{place.root}/{table}")["image_id"].to_pylist())
    assert json.loads(place.read_bytes("_export.json"))["dropped"] == dict(report.dropped) == LEFT_OUT
    # Also where a shard loses all its expressions, and a rule none of its images.
    every = exclusion("sha256", "all.csv", [sha256_hex(data) for _, data, _ in PICTURES])
    request = excluding(built_run, tmp_path / "every", every + exclusion("names", "none.txt", ["elsewhere.png"]))
    options = replace(request.options, rewording=1)
    report = find_export("parquet").write(replace(request, options=options), lambda *_, **__: None)
    assert report.rows["expressions"] == 0
    assert [note.split(" excludes no image")[0] for note in report.notes[:-1]] == ["none.txt"]


def test_copies_are_found_by_look_and_what_cannot_be_compared_is_left_out(tmp_path, place):
    # Pictures with details: of flat ones the hash is noise.
    pictures = tuple((f"{n}.png", build.png(40, 60, seed=n), (("a thing",),)) for n in range(3))
    run = build_run(tmp_path / "run", pictures, embed=False, source=tmp_path / "in")
    copy = perceptual_hash(build.random_pixels(40, 60, seed=1))
    (tmp_path / "in" / "2.png").unlink()
    images, dropped = wanted(run, place, exclusions=looks(copy, 4))
    assert [image.key for image in images] == ["0.png"]
    # The builder's empty image is not in SOURCE either.
    assert dropped == {"images excluded by bench (phash)": 1, UNCHECKED: 2}


def looks(phash, max_distance):
    return exclusion("phash", "bench", [phash], settings={"max_distance": max_distance})


def test_rules_that_the_run_was_planned_with_are_not_applied_again(built_run, place):
    """Without its file a rule by look costs a decoding of every image."""
    part = PartRecord(name="g0001/exclusions-00000000.parquet", rows=1, size_bytes=1, sha256="00" * 32)
    rules = looks("00" * 8, 31)
    planned = ExclusionRecord(rules=rules, part=part).model_dump(mode="json")
    run = replace(built_run, header=built_run.header.model_copy(update={"exclusions": planned}))
    assert not excluding(run, place, rules).excluded_images
    assert excluding(run, place, rules + NAMES).excluded_images


def test_another_time_vetoes_no_image_whose_digest_is_the_annotated_one(source_run, place):
    run, source = source_run
    for path in source.iterdir():
        os.utime(path, (1, 1))
    images, dropped = wanted(run, place)
    assert [image.data for image in images] == [jpeg()] * 4
    assert dropped[UNREADABLE] == 0
