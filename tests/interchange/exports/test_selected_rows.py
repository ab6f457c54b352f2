"""What exports are given: in plan order, within the rule, and everything left out counted with its reason."""

from __future__ import annotations

import os
from dataclasses import replace

import open_clip
import pytest

from pseudoris.interchange.exports import export_job, selected_rows
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.selected_rows import UNREADABLE, TextRule
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.store.location import RunLocation
from pseudoris.store.tables import annotations as tables
from tests.interchange.exports.builders import PICTURES, SEVERAL, build_run, jpeg, request_for


def wanted(run, place, rule=TextRule(), on_progress=lambda done, total: None, **request):  # noqa: B008
    job = ExportJob(ExportFormat("any", "", None, rule), replace(request_for(run, place), **request), on_progress)
    return list(job.images()), job.dropped


def texts_of(image):
    """Return by mask the texts that refer to it alone."""
    return [[each.text for each in said] for _, said in image.masks_with_texts()]


def test_images_come_in_plan_order_with_their_kept_expressions(built_run, place):
    images, dropped = wanted(built_run, place)
    assert [image.image_id for image in images] == list(built_run.with_texts())
    for image, masks in zip(images, built_run.with_texts().values(), strict=True):
        assert texts_of(image) == [list(mask.texts) for mask in masks]
    # The empty image, and the one of whose candidates none was kept; the quarantined one is the run's own affair.
    assert dropped == {
        selected_rows.WITHOUT_EXPRESSION: 2,
        selected_rows.WITHOUT_MASK: 1,
        selected_rows.WITHOUT_KEPT: 1,
    }


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


def changed_tables(monkeypatch, change):
    """Read tables as a run of another kind, an import or a later one, holds them."""
    real = export_job.iter_annotations

    def read(*arguments, **options):
        for image in real(*arguments, **options):
            yield replace(image, masks=tuple(change(mask) for mask in image.masks))

    monkeypatch.setattr(export_job, "iter_annotations", read)


def test_an_expression_of_several_masks_goes_with_a_mask_that_has_no_pixel(run_of_several, place, monkeypatch):
    """Of three masks; "both things" is said of the first two, "all of them" of all."""
    first = image_id(SEVERAL[0][0])

    def hollow(mask: tables.AnnotatedMask):
        return replace(mask, area_px=0 if mask.mask_id == f"{first}-0001" else mask.area_px)

    changed_tables(monkeypatch, hollow)
    images, dropped = wanted(run_of_several, place, TextRule(with_groups=True))
    assert (dropped[selected_rows.WITHOUT_PIXELS_OF_ONE], dropped[selected_rows.WITHOUT_PIXELS]) == (2, 1)
    assert [each.targets for each in images[0].expressions] == [(0,), (0,), (1,)]


def test_expressions_of_no_mask_are_counted_where_their_image_has_no_other(built_run, place, monkeypatch):
    real = export_job.iter_annotations

    def read(*arguments, **options):
        for image in real(*arguments, **options):
            said = [each for mask in image.masks for each in mask.expressions][:1]
            yield replace(image, masks=(), untargeted=tuple(replace(each, target_mask_ids=()) for each in said))

    expected = sum(any(mask.texts for mask in image.masks) for image in built_run.truth)
    monkeypatch.setattr(export_job, "iter_annotations", read)
    with pytest.raises(ConfigError, match=f"{expected} {selected_rows.NONE_ALONE}"):
        wanted(built_run, place, TextRule(with_none=True))


def test_an_image_that_a_trainer_cannot_resize_is_left_out_and_counted(built_run, place, monkeypatch):
    real, (first, *others) = export_job.iter_annotations, wanted(built_run, place)[0]

    def read(*arguments, **options):
        for image in real(*arguments, **options):
            yield replace(image, height=1, width=201) if image.image_id == first.image_id else image

    monkeypatch.setattr(export_job, "iter_annotations", read)
    images, dropped = wanted(built_run, place, TextRule(max_side_ratio=200))
    assert [image.image_id for image in images] == [image.image_id for image in others]
    assert dropped["images with a side above 200 times the other"] == 1


def test_texts_without_a_letter_and_masks_without_a_pixel_are_left_out(built_run, place, monkeypatch):
    def hollow(mask: tables.AnnotatedMask):
        if mask.mask_id.startswith(image_id(PICTURES[0][0])):
            return replace(mask, area_px=0)
        return replace(mask, expressions=tuple(replace(each, text="\u200b ") for each in mask.expressions))

    changed_tables(monkeypatch, hollow)
    num_texts = sum(len(mask.texts) for image in built_run.truth[1:] for mask in image.masks)
    with pytest.raises(ConfigError, match=f"2 masks without a pixel.*{num_texts} expressions without"):
        wanted(built_run, place)


@pytest.fixture
def source_run(tmp_path):
    """A run that embeds no image, whose SOURCE is a folder."""
    names = ("first", "second", "third", "fourth")
    pictures = tuple((f"{name}.jpg", jpeg(), ((f"the {name} one",),)) for name in names)
    location = RunLocation.open(str(tmp_path / "run"))
    return build_run(location, pictures, embed=False, source=tmp_path / "source"), tmp_path / "source"


def test_images_that_have_moved_are_read_where_they_lie_now(source_run, place, tmp_path):
    run, source = source_run
    source.rename(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "moved/third.jpg").write_bytes(jpeg(3))
    images, dropped = wanted(run, place, source=str(tmp_path / "moved"))
    assert [(image.key, image.data) for image in images] == [
        (name, jpeg()) for name in ("first.jpg", "second.jpg", "fourth.jpg")
    ]
    assert dropped[UNREADABLE] == 1


def test_images_that_are_gone_or_changed_in_source_are_left_out_and_counted(source_run, place, caplog):
    run, source = source_run
    (source / "second.jpg").unlink()
    (source / "fourth.jpg").write_bytes(jpeg()[:-1] + b"x")
    with caplog.at_level("WARNING", logger="pseudoris.interchange"):
        images, dropped = wanted(run, place)
    assert [image.key for image in images] == ["first.jpg", "third.jpg"]
    assert dropped[UNREADABLE] == 2
    assert "second.jpg is left out" in caplog.text


def test_other_bytes_of_the_planned_size_and_time_are_not_taken_for_the_image(source_run, place):
    run, source = source_run
    stat = (source / "first.jpg").stat()
    (source / "first.jpg").write_bytes(jpeg()[:-1] + b"x")
    os.utime(source / "first.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    images, dropped = wanted(run, place)
    assert "first.jpg" not in [image.key for image in images]
    assert dropped[UNREADABLE] == 1


def test_what_no_mask_is_left_of_is_not_read(source_run, place):
    run, source = source_run
    (source / "second.jpg").unlink()
    images, dropped = wanted(run, place, TextRule(refused=("second",)))
    assert len(images) == 3
    assert dropped[UNREADABLE] == 0
