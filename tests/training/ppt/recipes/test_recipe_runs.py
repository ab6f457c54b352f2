"""Mosaics and fusions, whose texts are true of their masks, and the recipes from images to runs.

These have the real SAM and a CLIP of random weights: what they write counts, not how well.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.recipes.object_centric import write_object_centric
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.receipts import latest_receipts
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.ppt.recipes.d_ref import Piece, compose_objects, fusion, mosaic, relative_side
from pseudoris.training.ppt.recipes.grounded_runs import make_objects, pair_masks, read_names
from pseudoris.training.ppt.recipes.recipe_config import ComposeConfig, load_recipe_config
from pseudoris.training.ppt.recipes.recipe_runs import count_pairs
from pseudoris.training.ppt.recipes.recipe_texts import middle_text, name_in, names_a_side
from tests.builders.images import png
from tests.interchange.dataset.builders import build_run
from tests.store.builders import annotated, commit_images, make_entries, start_run
from tests.training.ppt.builders import RECIPE

SIDE = 48


def _piece(value: int, *, size: tuple[int, int] = (40, 30), name: str = "star") -> Piece:
    """An object of one colour in the middle of a black picture."""
    mask = np.zeros(size, np.bool_)
    mask[size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = True
    return Piece(np.repeat((mask * value).astype(np.uint8)[..., None], 3, 2), mask, name)


def _middle(mask: np.ndarray) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return float(xs.mean()), float(ys.mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(1, 2), (2, 1), (1, 3), (2, 2), (3, 3)]))
def test_each_object_of_a_mosaic_lies_in_its_cell_and_shows_its_own_pixels(seed, layout) -> None:
    values = [60 + 20 * at for at in range(layout[0] * layout[1])]

    found = mosaic([_piece(value) for value in values], layout, SIDE, np.random.default_rng(seed))

    assert found is not None
    assert found.kind == "position"
    for at, (value, mask) in enumerate(zip(values, found.masks, strict=True)):
        row, column = divmod(at, layout[1])
        x, y = _middle(mask)
        assert column * SIDE / layout[1] < x < (column + 1) * SIDE / layout[1]
        assert row * SIDE / layout[0] < y < (row + 1) * SIDE / layout[0]
        places = {"left": x < SIDE / 2, "right": x > SIDE / 2, "top": y < SIDE / 2, "bottom": y > SIDE / 2}
        for text in found.texts[at]:
            said = {*places, "middle"} & {*text.split()}
            assert said
            assert all(places.get(word, True) for word in said)
        assert abs(float(np.median(found.pixels[mask])) - value) <= 1
        # The whole object is there, of 20 x 16 pixels before it was scaled; scaling rounds each edge.
        height, width = (float(np.ptp(each) + 1) for each in np.nonzero(mask))
        assert abs(16 / 20 * height - width) < 3
    assert not np.stack(found.masks).sum(0).max() > 1
    every = [text for texts in found.texts for text in texts]
    assert len({*every}) == len(every)


@pytest.mark.parametrize("embedded", ["object", "image"])
def test_a_fusion_tells_the_relation_that_its_masks_have(embedded) -> None:
    assert load_recipe_config("paper").compose.embedded == "image"
    config = ComposeConfig(side_px=SIDE, embedded=embedded)
    base, other = _piece(100, size=(40, 40), name="cup"), _piece(200, name="star")
    # No pixel of the base's image is black.
    base.pixels[:] = 100
    told = set()
    for seed in range(12):
        found = fusion(base, other, config, np.random.default_rng(seed))
        assert found is not None
        of_base, of_other = found.masks
        (x, y), (x_base, y_base) = _middle(of_other), _middle(of_base)
        holds = {"left of": x < x_base, "right of": x > x_base, "above": y < y_base, "below": y > y_base}
        (relation,) = [name for name in holds if f"the star {name} the cup" in found.texts[1]]
        assert holds[relation]
        assert any(text.startswith("the cup") and text.endswith("the star") for text in found.texts[0])
        assert np.median(found.pixels[of_other]) > 130
        assert (found.pixels < 50).any() == (embedded == "image")
        assert not (of_base & of_other).any()
        told.add(relation)
    assert len(told) > 1


def test_a_fusion_that_would_hide_the_base_is_none() -> None:
    config = ComposeConfig(side_px=SIDE, embedded="image", embedded_side=(1.0, 1.0))

    assert fusion(_piece(100, name="cup"), _piece(200, size=(40, 40)), config, np.random.default_rng(0)) is None


def test_a_relation_is_told_only_where_it_is_clear() -> None:
    grid = np.zeros((2, 100, 100), np.bool_)
    grid[0, 45:55, 45:55] = True
    places = {(45, 20): "left", (45, 70): "right", (10, 45): "top", (80, 45): "bottom", (45, 50): None, (75, 75): None}
    for (y, x), expected in places.items():
        target = np.zeros_like(grid[0])
        target[y : y + 10, x : x + 10] = True
        assert relative_side(target, grid[0]) == expected


def test_the_class_name_comes_back_out_of_an_object_centric_text() -> None:
    assert middle_text("fire truck") == "the fire truck in the middle"
    assert name_in(middle_text("fire truck")) == "fire truck"
    assert name_in("the star on the left") is None


@pytest.mark.parametrize(
    "text",
    [
        *("the left star", "the rightmost cup", "left-hand side man", "the left-side cup", "upper-left cup"),
        *("top-right star", "bottom-left", "righthand guy", "lefty", "lft guy", "rt", "Right one", "guy on upper r"),
        *("the west wing", "the north-west tile", "northeast corner", "easternmost tent"),
        *("the plate at 3 o'clock", "cup at 9 oclock", "the next one clockwise"),
    ],
)
def test_a_text_that_names_a_side_would_be_untrue_of_a_mirrored_image(text) -> None:
    assert names_a_side(text)


@pytest.mark.parametrize(
    "text", ["a cup", "the bright star", "an upright vase", "the leftovers", "at least two", "clock"]
)
def test_a_text_that_sounds_like_a_side_and_names_none_may_be_mirrored(text) -> None:
    assert not names_a_side(text)


pytestmark = pytest.mark.slow

WORDS = ("filtering.weights.uri=random:0", "shards.max_images=8")
SILENT = {"on_progress": lambda done, total: None, "on_wait": print}


def _rows(location):
    found = defaultdict(list)
    for row in OpenRun.at(location).table("expressions").to_pylist():
        found[row["image_id"], row["text"]].append(row)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """D_sem of twenty images, D_ref out of it, and H out of D_ref."""
    folder = tmp_path_factory.mktemp("recipes")
    images = write_object_centric(folder / "objects", num_images=20)
    (images / "star" / "broken.png").write_bytes(b"no image")
    config = load_recipe_config("tiny", None, WORDS)
    places = {name: RunLocation.open(str(folder / name)) for name in ("d_sem", "d_ref", "h")}
    make_objects(str(images), places["d_sem"], config, **SILENT)
    compose_objects(str(folder / "d_sem"), places["d_ref"], config, **SILENT)
    pair_masks(str(folder / "d_ref"), places["h"], config, **SILENT)
    return {"images": images, "config": config, **places}


def test_every_recipes_run_holds(runs) -> None:
    for name in ("d_sem", "d_ref", "h"):
        report = verify_run(runs[name])
        assert not report.problems, report.problems
        assert require_header(runs[name]).origin == "ppt"


def test_an_object_centric_image_has_its_class_in_the_middle_as_the_referent(runs) -> None:
    rows = _rows(runs["d_sem"])
    keys = {row["image_id"]: row["key"] for row in OpenRun.at(runs["d_sem"]).table("images").to_pylist()}

    assert len(rows) > 5
    for (image, text), pairs in rows.items():
        assert text == f"the {keys[image].partition('/')[0]} in the middle"
        assert [row["kept"] for row in pairs] == [True]
        assert pairs[0]["source"] == "recipe"
    (failure,) = OpenRun.at(runs["d_sem"]).table("failures").to_pylist()
    assert failure["reason"] == "not_an_image"


def test_a_composed_image_has_one_referent_a_text_and_all_others_as_contexts(runs) -> None:
    masks, side = defaultdict(dict), runs["config"].compose.side_px
    for row in OpenRun.at(runs["d_ref"]).table("masks").to_pylist():
        x0, y0, x1, y1 = row["box_xyxy_px"]
        masks[row["image_id"]][row["mask_id"]] = ((x0 + x1) / 2, (y0 + y1) / 2)
    kinds = set()
    for (image, text), pairs in _rows(runs["d_ref"]).items():
        assert {row["target_mask_ids"][0] for row in pairs} == set(masks[image])
        (referent,) = [row["target_mask_ids"][0] for row in pairs if row["kept"]]
        (context, *_) = [centre for mask, centre in masks[image].items() if mask != referent]
        kind = pairs[0]["kind"]
        assert _is_said(text, masks[image][referent], context if kind == "relation" else (side / 2, side / 2))
        kinds.add(kind)
    assert kinds == {"position", "relation"}
    assert all(row["bytes"] for row in OpenRun.at(runs["d_ref"]).table("images").to_pylist())


def _is_said(text: str, target: tuple[float, float], beside: tuple[float, float]) -> bool:
    """Whether the centre of a target lies beside another place where the text says that it does."""
    right, down = (one - other for one, other in zip(target, beside, strict=True))
    ahead = {"left": -right, "right": right, "top": -down, "above": -down, "bottom": down, "below": down, "under": down}
    return all(ahead[word] > 0 for word in text.split() if word in ahead)


def test_one_pseudo_mask_is_decided_and_several_are_not(runs) -> None:
    counts = count_pairs(runs["h"])
    by_text = _rows(runs["h"])

    assert {len(rows) == 1 for rows in by_text.values()} == {True, False}, "both kinds of texts are needed here"
    assert all(sum(row["kept"] for row in rows) == (len(rows) == 1) for rows in by_text.values())
    assert counts.decided == sum(len(rows) == 1 for rows in by_text.values()) > 0
    assert counts.undecided > 0
    assert counts.decided + counts.undecided == len(by_text)
    assert {image for image, _ in by_text} <= {image for image, _ in _rows(runs["d_ref"])}


def test_the_same_call_again_computes_nothing_and_another_seed_is_refused(runs) -> None:
    before = [receipt.parts for receipt in latest_receipts(runs["d_ref"])]
    source = runs["d_sem"].root

    written = compose_objects(source, runs["d_ref"], runs["config"], **SILENT)

    assert written.num_shards_before == written.header.num_shards
    assert [receipt.parts for receipt in latest_receipts(runs["d_ref"])] == before
    with pytest.raises(ConfigError, match=r"compose.seed: 0 in the run, 7 now"):
        compose_objects(source, runs["d_ref"], load_recipe_config("tiny", None, (*WORDS, "compose.seed=7")), **SILENT)


@pytest.mark.long
def test_a_lost_part_of_each_recipe_comes_back(runs) -> None:
    config = load_recipe_config("tiny", None, (*WORDS, "placement.repair=true"))
    commands = (
        ("d_sem", make_objects, str(runs["images"])),
        ("d_ref", compose_objects, runs["d_sem"].root),
        ("h", pair_masks, runs["d_ref"].root),
    )
    for name, command, source in commands:
        location, (receipt, *_) = runs[name], latest_receipts(runs[name])
        path = f"masks/{receipt.parts['masks'].name}"
        before = location.read_bytes(path)
        location.delete(path)
        with pytest.raises(ConfigError, match="Run the `pseudoris ppt` command of this run again with --repair"):
            OpenRun.at(location).table("masks")
        command(source, location, config, **SILENT)
        assert location.read_bytes(path) == before


@pytest.mark.long
def test_a_sample_is_drawn_by_the_seed_holds_smaller_ones_and_is_the_runs_own(tmp_path) -> None:
    images = write_object_centric(tmp_path / "objects", num_images=12)

    def drawn(name: str, sample: int, seed: int = 0) -> set[str]:
        config = load_recipe_config("tiny", None, (*WORDS, f"compute.seed={seed}"))
        location = RunLocation.open(str(tmp_path / name))
        make_objects(str(images), location, config, sample=sample, **SILENT)
        return set(OpenRun.at(location).table("images", ["key"])["key"].to_pylist())

    three = drawn("three", 3)
    assert len(three) == 3
    assert three == drawn("three", 3) < drawn("five", 5)
    assert three != drawn("other", 3, seed=1)
    with pytest.raises(ConfigError, match=r"objects\.sample: 3 in the run, 4 now"):
        drawn("three", 4)


def test_only_texts_of_objects_in_the_middle_can_be_composed(runs, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form .the … in the middle."):
        compose_objects(runs["d_ref"].root, RunLocation.open(str(tmp_path / "no")), runs["config"], **SILENT)


def test_one_class_alone_makes_mosaics_and_is_refused_where_fusions_are_wanted(tmp_path) -> None:
    rows = [(0, "the star in the middle", RECIPE)]
    stars = build_run(tmp_path / "stars", num_shards=1, per_shard=3, rows=lambda number: rows).location
    write_manifest(stars)
    out = tmp_path / "out"

    with pytest.raises(ConfigError, match=r"only one class, 'star'.* set compose\.mosaic_share=1 to make mosaics only"):
        compose_objects(stars.root, RunLocation.open(str(out)), load_recipe_config("tiny", None, WORDS), **SILENT)

    # Nothing of it stands in the way of another try there.
    mosaics = load_recipe_config("tiny", None, (*WORDS, "compose.mosaic_share=1"))
    compose_objects(stars.root, RunLocation.open(str(out)), mosaics, **SILENT)
    kinds = OpenRun.at(RunLocation.open(str(out))).table("expressions", ["kind"])["kind"].to_pylist()
    assert set(kinds) == {"position"}


def test_class_names_come_from_a_table_and_a_bad_one_says_its_line() -> None:
    assert read_names(b"folder,name\nn01532829,house finch\n") == {"n01532829": "house finch"}
    with pytest.raises(ConfigError, match="line 3 of the class names has no folder or no name"):
        read_names(b"folder,name\na,b\nc,\n")
    with pytest.raises(ConfigError, match="repeats the folder 'a'"):
        read_names(b"folder,name\na,b\na,c\n")


def test_pairs_of_combined_runs_that_read_deep_pixels_differently_are_refused(tmp_path) -> None:
    runs = [(name, RunLocation.open(str(tmp_path / name))) for name in ("v1", "v2")]
    for high, (_, run) in enumerate(runs, 1):
        commit_images(run, start_run(run, make_entries(1, 1), f"images.window=[0, {high}]"), annotated)
        write_manifest(run)
    combine(runs, both := RunLocation.open(str(tmp_path / "both")))
    with pytest.raises(ConfigError, match=r"v1 and v2 differ in images\.bits or images\.window"):
        pair_masks(both.root, RunLocation.open(str(tmp_path / "pairs")), load_recipe_config("tiny"), **SILENT)


def test_pairs_of_tiles_say_where_they_lie_and_of_which_picture(tmp_path) -> None:
    place = {"picture": "p.png", "picture_sha256": "ab" * 32, "picture_phash": "00ff" * 4, "phash": "0f0f" * 4}
    place |= {"picture_size": (64, 128), "tile_xyxy_px": (64, 0, 128, 64)}
    data, tiles = png(64, 64), RunLocation.open(str(tmp_path / "tiles"))

    def image_of(entry):
        return replace(annotated(entry), data=data, sha256=sha256_hex(data), **place)

    header = start_run(tiles, make_entries(1, 1), "shards.embed_images=true")
    commit_images(tiles, header, image_of, embed_images=True)
    write_manifest(tiles)
    pairs = RunLocation.open(str(tmp_path / "pairs"))
    pair_masks(tiles.root, pairs, load_recipe_config("tiny", None, WORDS), **SILENT)
    before, after = (OpenRun.at(each).table("images", [*place]).to_pylist() for each in (tiles, pairs))
    assert after == before
    assert after[0]["tile_xyxy_px"] == [64, 0, 128, 64]


def test_a_recipe_that_an_earlier_version_began_without_hashes_goes_on(tmp_path) -> None:
    images = write_object_centric(tmp_path / "objects", num_images=4)
    place = RunLocation.open(str(tmp_path / "d_sem"))
    make_objects(str(images), place, load_recipe_config("tiny", None, (*WORDS, "images.phash=false")), **SILENT)

    written = make_objects(str(images), place, load_recipe_config("tiny", None, WORDS), **SILENT)

    assert written.num_shards_before == len(list(latest_receipts(place)))
