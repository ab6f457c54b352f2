"""The stage without SAM: SA-1B JSON in, masks out."""

from __future__ import annotations

import json

import fsspec
import numpy as np
import pytest

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import MasksConfig, PriorConfig, ReductionConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard, ShardImage, emptied_by
from pseudoris.workers.masks import ReadyProposer
from pseudoris.workers.masks.ready_masks import json_name
from pseudoris.workers.stages import STAGES
from tests.builders.human import box_mask
from tests.builders.human import rle as coded
from tests.builders.images import oriented, png, smooth_pixels

SIZE = (24, 32)
BOXES = [(2, 2, 12, 12), (14, 3, 30, 20), (3, 14, 12, 22)]
KEEP_ALL = ReductionConfig(mask_nms_iou=1.0, min_area=0.0, max_area=1.0, min_inside=1.0, max_part_area=0.0)


def mask_row(mask, **changes):
    """Return a mask (H, W) bool as a row of `annotations`, with SA-1B's keys; box and area are not read."""
    unread = {"id": 1, "area": 7, "bbox": [0, 0, 1, 1], "crop_box": [0, 0, 1, 1], "point_coords": [[1, 1]]}
    return {**unread, "segmentation": coded(mask), "predicted_iou": 0.9, "stability_score": 0.97, **changes}


def sa1b(rows, size):
    image = {"image_id": 1, "height": size[0], "width": size[1], "file_name": "a.jpg"}
    return {"image": image, "annotations": list(rows)}


def write_sa1b(path, rows, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sa1b(rows, size)))
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "masks"


@pytest.fixture
def config_of(folder):
    """A config whose SAM weights do not exist: whoever touched them would fail."""
    folder.mkdir()
    nowhere = WeightsConfig(uri="/nowhere/sam.pth")

    def build(folder=folder, *, options=None, **overrides) -> MasksConfig:
        changes = {"engine": "ready", "weights": nowhere, "reduction": KEEP_ALL, **overrides}
        changes["options"] = {"folder": str(folder), **(options or {})}
        return load_config("tiny").masks.model_copy(update=changes)

    return build


@pytest.fixture
def propose(config_of, compute):
    return lambda shard, **overrides: ReadyProposer(config_of(**overrides), compute)(shard)


def shard_of(*keys: str, data: bytes | None = None) -> Shard:
    data = data or png(*SIZE)
    return Shard(0, 0, tuple(ShardImage(n, f"{n:016x}", key, data, "0" * 64, *SIZE) for n, key in enumerate(keys)))


def only(shard: Shard) -> ShardImage:
    (image,) = shard.images
    return image


def test_masks_come_from_the_file_of_their_image_with_scores_and_tight_boxes(folder, propose):
    rows = [
        mask_row(box_mask(box), predicted_iou=0.9 + n / 37, stability_score=0.95 + n / 71)
        for n, box in enumerate(BOXES)
    ]
    write_sa1b(folder / "sub/a.json", rows, SIZE)
    done = only(propose(shard_of("sub/a.jpg")))
    assert done.failure is None
    assert [mask.mask_id for mask in done.masks] == [f"{done.image_id}-{n:04d}" for n in range(3)]
    for n, (mask, box) in enumerate(zip(done.masks, BOXES, strict=True)):
        np.testing.assert_array_equal(rle.decode([mask.rle_counts], mask.rle_size)[0], box_mask(box))
        assert (mask.box_xyxy_px, mask.area_px) == (box, box_mask(box).sum())
        # To the last bit: what was in the file, and no float32 of it.
        assert (mask.predicted_iou, mask.stability_score) == (0.9 + n / 37, 0.95 + n / 71)
        assert mask.prior == "none"


def test_the_reduction_chooses_among_them_as_among_sams_and_the_others_keep_their_ids(folder, propose):
    rows = [mask_row(box_mask(box)) for box in [(2, 2, 20, 20), (3, 3, 8, 8), (22, 4, 30, 20)]]
    write_sa1b(folder / "a.json", rows, SIZE)
    done = only(propose(shard_of("a.jpg"), reduction=ReductionConfig()))
    assert [mask.index for mask in done.masks] == [0, 2]


def test_a_table_of_instances_chooses_among_them(folder, config_of, compute, tmp_path):
    write_sa1b(folder / "a.json", [mask_row(box_mask(box)) for box in BOXES], SIZE)
    table = tmp_path / "instances.json"
    x0, y0, x1, y1 = BOXES[1]
    row = {"id": 1, "image_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    table.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [row]}))
    config = config_of(prior=PriorConfig(kind="table", path=str(table)))
    (mask,) = only(ReadyProposer(config, compute)(shard_of("a.jpg"))).masks
    assert (mask.index, mask.prior) == (1, "table:0")
    write_sa1b(folder / "b.json", [mask_row(box_mask(BOXES[0]))], SIZE)
    assert emptied_by(only(ReadyProposer(config, compute)(shard_of("b.jpg"))).masks_left) == "prior"
    without = config.model_copy(update={"prior": PriorConfig()})
    assert ReadyProposer.weights_digest(config) != ReadyProposer.weights_digest(without)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/b.jpg", "a/b.json"),
        ("sa_000000.tar!sa_223750.jpg", "sa_223750.json"),
        ("t.tar!x/y.png", "x/y.json"),
        ("sch%C3%B6n/100%25%20a.JPEG", "schön/100% a.json"),
        ("a.b.jpg", "a.b.json"),
        ("noend", "noend.json"),
    ],
)
def test_a_file_is_named_after_its_image(key, name):
    assert json_name(key) == name


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        *((key, "refused_uri") for key in ("t.tar!../../etc/passwd.jpg", "t.tar!/etc/passwd.jpg", "t.tar!..")),
        *((key, "refused_uri") for key in ("../a.jpg", "t.tar!")),
        ("t.parquet#3", "annotation_missing"),
    ],
)
def test_a_name_that_leads_out_of_the_folder_or_names_no_file_is_quarantined_unread(folder, propose, key, reason):
    write_sa1b(folder.parent / "a.json", [mask_row(box_mask(BOXES[0]))], SIZE)
    done = only(propose(shard_of(key)))
    assert (done.failure.reason, done.masks) == (reason, ())


def test_an_image_without_a_file_is_quarantined_and_the_rest_goes_on(folder, propose):
    write_sa1b(folder / "b.json", [mask_row(box_mask(BOXES[0]))], SIZE)
    first, second = propose(shard_of("a.jpg", "b.jpg")).images
    assert (first.failure.reason, first.failure.message) == (
        "annotation_missing",
        "masks.options.folder holds no a.json",
    )
    assert len(second.masks) == 1


def test_no_mask_and_masks_without_a_pixel_leave_an_empty_image(folder, propose):
    write_sa1b(folder / "a.json", [], SIZE)
    write_sa1b(folder / "b.json", [mask_row(np.zeros(SIZE, bool)), mask_row(box_mask(BOXES[0]))], SIZE)
    empty, one = propose(shard_of("a.jpg", "b.jpg")).images
    assert (empty.masks, empty.failure) == ((), None)
    # No rule took what was never there.
    assert (emptied_by(empty.masks_left), one.masks_left["proposed"]) == (None, 1)
    assert [mask.area_px for mask in one.masks] == [100]


def test_a_mask_of_another_size_than_its_document_says_is_quarantined(folder, propose):
    write_sa1b(folder / "a.json", [mask_row(box_mask(BOXES[0], (9, 9)))], SIZE)
    done = only(propose(shard_of("a.jpg")))
    assert done.failure.reason == "annotation_mismatch"
    assert "mask 0: the segmentation is of size [9, 9], the image has [24, 32]" in done.failure.message


def test_masks_are_of_the_upright_image(folder, propose):
    data = oriented(smooth_pixels(*SIZE), 6)
    upright = SIZE[::-1]
    write_sa1b(folder / "a.json", [mask_row(box_mask(BOXES[0], upright))], upright)
    write_sa1b(folder / "b.json", [mask_row(box_mask(BOXES[0], SIZE))], SIZE)
    first, second = propose(shard_of("a.jpg", "b.jpg", data=data)).images
    assert first.masks[0].rle_size == upright
    assert second.failure.reason == "annotation_mismatch"


GOOD = mask_row(box_mask(BOXES[0]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[]",
        b'{"annotations": {}}',
        b'{"annotations": ["mask"]}',
        *(
            json.dumps(sa1b([{**GOOD, **change}], SIZE)).encode()
            for change in (
                {"segmentation": None},
                {"segmentation": {"size": list(SIZE), "counts": "0"}},
                {"segmentation": {"size": list(SIZE), "counts": [5]}},
                {"segmentation": "mask"},
                {"predicted_iou": "0.9"},
                {"predicted_iou": float("nan")},
                {"stability_score": float("inf")},
                {"stability_score": 10**400},
                {"stability_score": True},
            )
        ),
    ],
)
def test_a_damaged_file_is_quarantined(folder, propose, content):
    (folder / "a.json").write_bytes(content)
    done = only(propose(shard_of("a.jpg")))
    assert (done.masks, done.failure.stage, done.failure.reason) == ((), "propose", "annotation_damaged")
    assert "a.json" in done.failure.message


def test_scores_that_are_not_stated_are_null_and_such_a_mask_gives_way_to_one_with_a_score(folder, propose):
    box = box_mask((2, 2, 20, 20))
    rows = [mask_row(box, predicted_iou=None), mask_row(box, predicted_iou=0.1, stability_score=None)]
    write_sa1b(folder / "a.json", rows, SIZE)
    (mask,) = only(propose(shard_of("a.jpg"), reduction=ReductionConfig())).masks
    assert (mask.index, mask.predicted_iou, mask.stability_score) == (1, 0.1, None)
    (first, _) = only(propose(shard_of("a.jpg"))).masks
    assert first.predicted_iou is None


def test_a_file_beyond_the_limits_is_quarantined(folder, propose):
    write_sa1b(folder / "a.json", [mask_row(box_mask(box)) for box in BOXES], SIZE)
    for option, value in (("max_masks", 2), ("max_bytes", 100)):
        done = only(propose(shard_of("a.jpg"), options={option: value}))
        assert done.failure.reason == "annotation_damaged"
        assert f"masks.options.{option}" in done.failure.message


def test_a_fault_of_the_storage_ends_the_attempt_and_quarantines_nothing(config_of, compute, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.makedirs("/ready", exist_ok=True)
    proposer = ReadyProposer(config_of("memory://ready"), compute)
    monkeypatch.setattr(type(memory), "open", lambda *_: (_ for _ in ()).throw(RuntimeError("503")))
    with pytest.raises(TransientError, match=r"cannot read .*a\.json: RuntimeError: 503"):
        proposer(shard_of("a.jpg"))


def test_a_folder_in_a_store_is_one_too(config_of, compute):
    memory = fsspec.filesystem("memory")
    memory.pipe("/ready/a.json", json.dumps(sa1b([GOOD], SIZE)).encode())
    done = only(ReadyProposer(config_of("memory://ready"), compute)(shard_of("a.jpg")))
    assert done.masks[0].area_px == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "masks"}, "folder 'masks' is relative: give an absolute path"),
        ({"folder": ""}, "masks.options is not valid for masks.engine=ready"),
        ({"folder": None}, "--set masks.options.folder=/absolute/path"),
        ({"fold": "/x"}, "fold: Extra inputs"),
        ({"max_masks": 0}, "max_masks: Input should be greater"),
        ({"folder": "/nowhere/masks"}, "masks.options.folder=/nowhere/masks is not a folder"),
        ({"folder": "nothing://x"}, "masks.options.folder=nothing://x cannot be reached"),
    ],
)
def test_a_mistake_in_the_options_is_named_before_a_run(config_of, compute, options, message):
    config = config_of(options=options)
    for start in (lambda: ReadyProposer(config, compute), lambda: ReadyProposer.weights_digest(config)):
        with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
            start()


def test_the_digest_follows_the_folders_name(config_of, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    first, second = ReadyProposer.weights_digest(config_of()), ReadyProposer.weights_digest(config_of(other))
    assert len(first) == 64
    assert first != second
    assert ReadyProposer.weights_digest(config_of(f"{folder}/")) == first


def test_what_is_too_small_alone_is_counted_where_composing_asks_for_it(folder, config_of, tmp_path):
    # A hundredth is 7.68 pixels: one large, a small one with its double, one inside the large, one just large enough.
    boxes = [(2, 2, 20, 20), (24, 4, 27, 6), (24, 4, 26, 6), (5, 5, 7, 8), (24, 10, 28, 12)]
    write_sa1b(folder / "a.json", [mask_row(box_mask(box)) for box in boxes], SIZE)
    run = load_config("tiny-composed")
    masks = config_of(reduction=ReductionConfig(min_area=0.01, mask_nms_iou=0.6))
    asks = run.composing.model_copy(update={"has_too_small": True})

    def proposed(**changes):
        return only(STAGES[0].build(run.model_copy(update={"masks": masks, **changes}))(shard_of("a.jpg")))

    done = proposed(composing=asks)
    assert ([mask.index for mask in done.masks], done.num_too_small) == ([0, 4], 1)
    for unasked in ({}, {"composing": None}):
        assert proposed(**unasked).num_too_small is None
    # An instance prior drops none for its size.
    table = tmp_path / "instances.json"
    table.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}))
    prior = masks.model_copy(update={"prior": PriorConfig(kind="table", path=str(table))})
    assert proposed(composing=asks, masks=prior).num_too_small is None
