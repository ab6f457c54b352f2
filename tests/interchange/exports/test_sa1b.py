"""The SA-1B export through a reader written from the format's description."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pseudoris.interchange.exports import export_job, json_pairs
from pseudoris.store.files.key_order import path_key
from pseudoris.store.location import RunLocation
from tests.interchange.exports.builders import build_run, export, jpeg, stored
from tests.interchange.exports.readers_sa1b import read_sa1b


def test_masks_of_a_prior_have_no_score_and_the_report_says_how_many(place, tmp_path, monkeypatch):
    run = build_run(RunLocation.open(str(tmp_path / "run")), ((path_key("a.jpg"), jpeg(), (("the red half",),)),))
    real = export_job.iter_annotations

    def unscored(*arguments, **options):
        for image in real(*arguments, **options):
            masks = tuple(replace(mask, predicted_iou=None, stability_score=None) for mask in image.masks)
            yield replace(image, masks=masks)

    monkeypatch.setattr(export_job, "iter_annotations", unscored)
    report = export("sa1b", run, place)
    ((_, _, [(annotation, _)]),) = read_sa1b(Path(place.root))
    assert annotation["predicted_iou"] is None
    assert any("1 masks of a prior have no predicted_iou" in note for note in report.notes)


def test_folders_are_filled_one_after_the_other(built_run, place, tmp_path, monkeypatch):
    monkeypatch.setattr(json_pairs, "IMAGES_A_FOLDER", 3)
    export("sa1b", built_run, place)
    folders = {Path(path).parts[0]: 0 for path in stored(place.root) if "/" in path}
    assert sorted(folders) == ["sa_000000", "sa_000001", "sa_000002"]
    assert [image["image_id"] for _, image, _ in read_sa1b(Path(place.root))] == list(
        range(1, len(built_run.truth) + 1)
    )
    # Replaced by one of fewer folders: of the others nothing is left.
    one = build_run(RunLocation.open(str(tmp_path / "one")), ((path_key("a.jpg"), jpeg(), (("the red half",),)),))
    export("sa1b", one, place, is_overwriting=True)
    assert sorted(stored(place.root)) == [
        *("_export.json", "croissant.json", "sa_000000/sa_1.jpg", "sa_000000/sa_1.json")
    ]
