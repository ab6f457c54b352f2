"""An import from files to a run that every reader reads, the same bytes each time; a human's masks on one image."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco

from pseudoris import RisDataset, SampleSpec
from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import decode_upright
from pseudoris.interchange.exclusions import read_exclusions
from pseudoris.interchange.imports.human_annotation import HumanImage, HumanMask, HumanPhrase, annotate_image
from pseudoris.interchange.imports.import_run import WITHOUT_PIXELS
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import ShardImage
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.exclusion_rules import exclusions_of
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import is_manifest_complete
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.store.tables.annotations import iter_annotations
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from tests.builders.command import invoke
from tests.builders.human import (
    HEIGHT,
    WIDTH,
    box_mask,
    document,
    image_row,
    object_row,
    polygon,
    reference,
    rle,
    runs,
    write_images,
    write_refer,
    write_small_refer,
)
from tests.builders.images import oriented, png, smooth_pixels
from tests.builders.imports import import_small
from tests.builders.runs import part_digests
from tests.builders.seals import forge_header


@pytest.fixture
def dataset(tmp_path):
    return write_small_refer(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An import that its tests only read: its location, the folder of images, its summary."""
    folder = tmp_path_factory.mktemp("finished")
    annotation, images = write_small_refer(folder)
    location = RunLocation.open(str(folder / "out"))
    return location, images, import_small(annotation, images, location)


def found(location: RunLocation) -> dict:
    """Return the run's images by key."""
    return {image.key: image for image in iter_annotations(OpenRun.at(location).shards())}


def pixels(mask) -> np.ndarray:
    return coco.decode({"size": list(mask.rle_size), "counts": mask.rle_counts.encode()}).astype(bool)


def test_texts_masks_and_ids_are_the_datasets(finished):
    location, _, summary = finished
    run = found(location)
    assert (summary.totals.masks, summary.totals.kept) == (5, 10)
    assert is_manifest_complete(location, list_receipts(location))
    assert sorted(run) == [f"train2014/{n}.png" for n in range(5)]
    for number in range(5):
        image = run[f"train2014/{number}.png"]
        assert (image.image_id, image.height, image.width) == (image_id(image.key), HEIGHT, WIDTH)
        (mask,) = image.masks
        np.testing.assert_array_equal(pixels(mask), box_mask((4, 3, 12, 9)))
        assert (mask.box_xyxy_px, mask.area_px, mask.prior) == ((4, 3, 12, 9), 48, f"human:{2 * number}")
        assert (mask.predicted_iou, mask.stability_score) == (None, None)
        assert [each.text for each in mask.expressions] == [f"thing {2 * number}", "the one on the left"]


def test_a_humans_expressions_have_no_draws_and_no_scores_are_kept_and_weigh_one(finished):
    location, _, _ = finished
    nothing = ("decoder", "top_k", "top_p", "crop", "log_prob", "uniqueness", "correctness", "distinctiveness")
    for row in OpenRun.at(location).table("expressions").to_pylist():
        assert all(row[name] is None for name in (*nothing, "rival_mask_id", "head_noun"))
        assert (row["source"], row["count"], row["samples"]) == ("human", 0, [])
        assert (row["kept"], row["weight"]) == (True, 1.0)


def test_its_data_card_says_that_no_model_made_it_and_which_files_people_s_annotation_came_from(finished):
    location, _, _ = finished
    assert "import" in (card := location.read_bytes("DATACARD.md").decode())
    assert "no model" in card.lower()
    read = require_header(location).identity.method["import"]
    assert len(read["files"]) == 2
    for name, digest in read["files"].items():
        assert f"| … its file `{name}` | sha256 `{digest}` |" in card
    assert f"| … its splits | {', '.join(f'`{split}`' for split in read['splits'])} |" in card


@pytest.mark.slow
def test_several_splits_are_one_run_with_the_same_ids_of_what_one_split_has(dataset, tmp_path):
    annotation, images = dataset
    every, one = (RunLocation.open(str(tmp_path / name)) for name in ("every", "one"))
    import_small(annotation, images, every, splits=("train", "val"))
    import_small(annotation, images, one, splits=("val",))
    both, second = found(every), found(one)
    for key, image in both.items():
        assert [mask.mask_id for mask in image.masks] == [f"{image.image_id}-0000", f"{image.image_id}-0001"]
        assert second[key].masks == image.masks[1:]


@pytest.fixture
def divided(tmp_path):
    """Return a dataset whose images are in one split each, and its images."""
    names, splits = [f"{number}.png" for number in range(5)], ["train", "val", "train", "testA", "train"]
    objects = [object_row(number, number) for number in range(5)]
    refs = [reference(n, n, n, f"thing {n}", split=split) for n, split in enumerate(splits)]
    rows = [image_row(number, name) for number, name in enumerate(names)]
    return write_refer(tmp_path / "refcoco", rows, objects, refs), write_images(tmp_path / "images", *names)


def texts_of(run: RunLocation, **spec) -> set[str]:
    dataset = RisDataset(run.root, SampleSpec(parts=("text",), draw="distinct", **spec))
    return {text for at in range(len(dataset)) for text in dataset[at]["expressions"]}


def test_an_import_of_train_and_other_splits_is_a_run_with_splits(divided, tmp_path, location):
    splits = [word for split in ("train", "val", "testA") for word in ("--split", split)]
    assert "train 3, val 1, testA 1" in invoke("import", *divided, location.root, *splits).output
    assert verify_run(location).is_clean
    assert require_header(location).splits.images == {"train": 3, "val": 1, "testA": 1}
    assert texts_of(location) == {"thing 0", "thing 2", "thing 4"}
    assert texts_of(location, split="testA") == {"thing 3"}
    assert len(texts_of(location, split="all")) == 5
    validated = HeldOutExpressions.for_validation(location.root, {})
    assert [image.texts for image in validated.images] == [["thing 1"]]
    invoke("export", location.root, tmp_path / "coco", "--format", "coco")
    written = {path.name for path in (tmp_path / "coco" / "annotations").glob("instances_*")}
    assert written == {f"instances_{split}.json" for split in ("train", "val", "testA")}


def test_an_import_of_one_split_or_without_train_has_no_splits_to_choose_from(divided, tmp_path):
    for number, splits in enumerate([("train",), ("val", "testA")]):
        import_small(*divided, run := RunLocation.open(str(tmp_path / f"out{number}")), splits=splits)
        assert require_header(run).splits is None
        assert len(texts_of(run)) == {1: 3, 2: 2}[len(splits)]


def test_an_import_whose_images_are_in_several_splits_is_learnt_from_as_a_whole(dataset, location):
    import_small(*dataset, location, splits=("train", "val"))
    assert require_header(location).splits is None
    assert len(RisDataset(location.root, SampleSpec(parts=("text",)))) == 10


def test_an_import_that_was_begun_without_splits_stays_so(divided, location):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_small(*divided, location, splits=("train", "val", "testA"), on_progress=stop)
    forge_header(location, lambda header: header.pop("splits"))
    import_small(*divided, location, splits=("train", "val", "testA"))
    assert len(texts_of(location)) == 5
    assert not any(row["split"] for row in OpenRun.at(location).table("images").to_pylist())


def test_a_prefix_gives_the_ids_of_a_run_over_the_folder_above(tmp_path, location):
    images = write_images(tmp_path / "images", "train2014/a.png")
    rows, objects = [image_row(1, "a.png")], [object_row(1, 1)]
    annotation = write_refer(tmp_path / "refcoco", rows, objects, [reference(1, 1, 1, "a thing")])
    import_small(annotation, images, location, prefix="train2014")
    assert found(location)["train2014/a.png"].image_id == image_id("train2014/a.png")


@pytest.mark.slow
def test_an_import_that_ends_half_way_is_continued_to_the_bytes_of_any_other(dataset, tmp_path, location):
    annotation, images = dataset

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_small(annotation, images, location, on_progress=stop, num_workers=1)
    num_done = len(list_receipts(location))
    assert 0 < num_done < 3
    assert not verify_run(location).is_clean
    assert import_small(annotation, images, location).num_shards_before == num_done
    assert verify_run(location).is_clean
    before = part_digests(tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    # Settings of models are no part of an import.
    assert import_small(annotation, images, location, "compute.seed=7", "filtering.tau=2").num_shards_before == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")} == stamps
    import_small(annotation, images, RunLocation.open(str(tmp_path / "other")), num_workers=3)
    assert part_digests(tmp_path / "other") == before


@pytest.mark.parametrize(
    ("values", "words", "message"),
    [
        ({"splits": ("val",)}, (), r"import\.splits"),
        ({"orientation": "stored"}, (), r"import\.orientation"),
        ({}, ("shards.max_images=3",), r"shards\.max_images"),
        ({}, ("images.max_pixels=10000",), r"images\.max_pixels"),
    ],
)
def test_other_settings_on_the_same_output_are_refused_by_name(finished, values, words, message):
    location, images, _ = finished
    with pytest.raises(ConfigError, match=message):
        import_small(images.with_name("refcoco"), images, location, *words, **values)


def test_another_annotation_or_a_run_of_models_on_the_same_output_is_refused(dataset, location):
    annotation, images = dataset
    import_small(annotation, images, location)
    instances = (annotation / "instances.json").read_bytes()
    (annotation / "instances.json").write_bytes(instances.replace(b"[[4, 3,", b"[[4, 2,", 1))
    with pytest.raises(ConfigError, match=r"import\.files\.instances\.json"):
        import_small(annotation, images, location)
    (annotation / "instances.json").write_bytes(instances)
    forge_header(location, lambda tree: tree.update(origin="annotate"))
    with pytest.raises(ConfigError, match=r"`pseudoris annotate`\. `import` cannot continue it"):
        import_small(annotation, images, location)


@pytest.mark.slow
def test_images_that_cannot_be_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path, location):
    images = write_images(tmp_path / "images", "fine.png", "small.png", "broken.png", "worse.png")
    (images / "small.png").write_bytes(png(10, 10))
    (images / "broken.png").write_bytes(b"no image at all")
    (images / "loop.png").symlink_to("loop.png")
    names = ["fine.png", "absent.png", "small.png", "broken.png", "worse.png", "loop.png"]
    objects = [object_row(number, number) for number in range(6)]
    objects[4]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": "0000"}
    rows = [image_row(number, name) for number, name in enumerate(names)]
    path = tmp_path / "objects.json"
    path.write_bytes(document(rows, objects))
    summary = import_small(path, images, location, format="coco")
    failures = OpenRun.at(location).table("failures").to_pylist()
    keys = {row["image_id"]: row["key"] for row in OpenRun.at(location).table("images").to_pylist()}
    assert {keys[row["image_id"]]: (row["stage"], row["reason"]) for row in failures} == {
        "absent.png": ("read", "missing"),
        "small.png": ("import", "annotation_mismatch"),
        "broken.png": ("read", "not_an_image"),
        "worse.png": ("import", "annotation_damaged"),
        "loop.png": ("read", "unreadable"),
    }
    assert (summary.totals.annotated, summary.totals.quarantined) == (1, 5)
    assert verify_run(location).is_clean


@pytest.mark.slow
def test_every_form_of_segmentation_is_taken_and_a_mask_without_a_pixel_is_left_out(tmp_path, location):
    box = (4, 3, 12, 9)
    mask = box_mask(box)
    forms = [rle(mask), [rle(mask)], runs(mask), [runs(mask)], rle(np.zeros((HEIGHT, WIDTH), bool)), []]
    objects = [object_row(0, 1, box)] + [object_row(n + 1, 1, segmentation=form) for n, form in enumerate(forms)]
    for row in objects:
        row["caption"] = f"Form {row['id']}."
    images = write_images(tmp_path / "images", "a.png")
    path = tmp_path / "objects.json"
    path.write_bytes(document([image_row(1, "a.png")], objects))
    summary = import_small(path, images, location, format="coco")
    (image,) = found(location).values()
    assert [each.index for each in image.masks] == [0, 1, 2, 3, 4]
    assert [each.text for one in image.masks for each in one.expressions] == [f"form {n}" for n in range(5)]
    for each in image.masks:
        np.testing.assert_array_equal(pixels(each), mask)
    assert summary.left_out[WITHOUT_PIXELS] == 2
    assert verify_run(location).is_clean


def test_what_cannot_be_imported_is_refused(tmp_path, location, dataset):
    annotation, images = dataset
    path = tmp_path / "broken.json"
    path.write_bytes(b"[")
    with pytest.raises(ConfigError, match=r"broken\.json cannot be read as JSON"):
        import_small(path, images, location, format="coco")
    assert not (tmp_path / "out").exists()
    path.write_bytes(document([], []))
    with pytest.raises(ConfigError, match="lists no image"):
        import_small(path, images, location, format="coco")
    with pytest.raises(ConfigError, match="is not a folder"):
        import_small(annotation, images / "train2014" / "0.png", location)


def test_an_import_leaves_out_the_images_of_a_benchmark_and_says_how_many(dataset, location, tmp_path):
    refer, images = dataset
    digest = hashlib.sha256((images / "train2014" / "3.png").read_bytes()).hexdigest()
    (tmp_path / "bench.csv").write_text(f"sha256\n{digest}\n")
    (tmp_path / "names.txt").write_text("train2014/1.png\n")
    exclusions = read_exclusions([str(tmp_path / "names.txt"), str(tmp_path / "bench.csv")])
    summary = import_small(refer, images, location, exclusions=exclusions)
    assert (summary.header.num_images, summary.totals.reasons) == (4, {"excluded": 1})
    assert [rule.num_excluded for rule in exclusions_of(summary.header).rules] == [1, None]
    assert summary.left_out["images excluded by names.txt (names)"] == 1
    assert verify_run(location).is_clean
    with pytest.raises(ConfigError, match="excludes other images"):
        import_small(refer, images, location, exclusions=read_exclusions([str(tmp_path / "names.txt")]))


LIMITS = ImagesConfig()
STORED = (10, 16)
BOX = (2, 1, 7, 4)


def picture(orientation: int = 1, image_format: str = "PNG") -> ShardImage:
    """Return a proven image that lies in its file as STORED and is turned by EXIF."""
    data = oriented(smooth_pixels(*STORED), orientation, image_format)
    height, width = decode_upright(data, LIMITS).shape[:2]
    return ShardImage(0, image_id("a.png"), "a.png", data, "0" * 64, height, width)


def human(segmentation, size=STORED) -> HumanImage:
    return HumanImage("a.png", size, (HumanMask(3, 431, segmentation),), (HumanPhrase((3,), "a box"),))


def annotated(image: ShardImage, what: HumanImage, orientation="upright") -> ShardImage:
    return annotate_image(image, what, orientation=orientation, limits=LIMITS)


def upright_by_pillow(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Return a stored mask as Pillow turns it: an independent reference."""
    stored = io.BytesIO(oriented(mask.astype(np.uint8) * 255, orientation))
    return np.asarray(ImageOps.exif_transpose(Image.open(stored))) > 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_masks_of_a_turned_image_are_turned_with_it_and_upright_ones_taken_as_they_are(
    orientation, image_format
):
    mask = box_mask(BOX, STORED)
    mask[1, 2] = False
    upright = upright_by_pillow(mask, orientation)
    given = [(mask, rle, "stored"), (mask, runs, "stored"), (upright, rle, "upright")]
    for pixels, form, how in given:
        image = picture(orientation, image_format)
        done = annotated(image, human(form(pixels), pixels.shape), how)
        assert done.failure is None, done.failure
        (record,) = done.masks
        found = coco.decode({"size": list(record.rle_size), "counts": record.rle_counts.encode()})
        np.testing.assert_array_equal(found, upright)
        rows, columns = np.nonzero(upright)
        assert record.rle_size == (image.height, image.width)
        assert record.box_xyxy_px == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert record.area_px == mask.sum()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_with_their_sides_swapped_are_quarantined_and_the_message_says_what_to_try(orientation):
    image = picture(orientation)
    upright = annotated(image, human([polygon(BOX)], STORED))
    assert (upright.failure.stage, upright.failure.reason) == ("import", "annotation_mismatch")
    assert "10 x 16 pixels (height x width), the upright image has 16 x 10" in upright.failure.message
    assert "--orientation stored" in upright.failure.message
    stored = annotated(image, human([polygon(BOX)], STORED[::-1]), "stored")
    assert "--orientation upright" in stored.failure.message
    assert (stored.masks, stored.expressions, stored.data) == ((), (), b"")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (human([polygon(BOX)], (10, 17)), "10 x 17 pixels"),
        # The entry states no size.
        (
            human(rle(np.ones((3, 3), bool)), None),
            "annotation 431: the segmentation is of size [3, 3], the image has [10, 16]",
        ),
    ],
)
def test_another_size_is_quarantined_without_a_guess(what, message):
    failure = annotated(picture(), what).failure
    assert (failure.stage, failure.reason) == ("import", "annotation_mismatch")
    assert message in failure.message
    assert "--orientation" not in failure.message


COUNTS = ("0", "o" * 50, "é", b"\xff", [5], [-5, 165])


@pytest.mark.parametrize(
    "segmentation", [*({"size": list(STORED), "counts": each} for each in COUNTS), [[1, 2, 3]], "polygon", 5]
)
def test_a_mask_that_does_not_decode_is_quarantined_with_its_annotation(segmentation):
    done = annotated(picture(), human(segmentation))
    assert (done.failure.stage, done.failure.reason) == ("import", "annotation_damaged")
    assert done.failure.message.startswith("annotation 431: ")
