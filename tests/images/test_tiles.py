"""Tiles cover a picture without a gap, say where they lie, and hold its very pixels, whatever its layout."""

from __future__ import annotations

import io
import itertools
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pseudoris.images.layouts import LAYOUTS
from pseudoris.images.pixels import decode_upright
from pseudoris.images.prover import Prover
from pseudoris.images.tiles import Tile, TileForm, is_cut, marked, marks_of
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config import ImagesConfig
from tests.builders.images import encode, oriented, png, random_pixels
from tests.builders.layouts import cells

SIDES = st.integers(1, 400)
FORM = TileForm(16, 5)


@pytest.fixture(scope="module")
def prover():
    with Prover(ImagesConfig(phash=True), form=FORM) as prover:
        yield prover


@given(size=st.tuples(SIDES, SIDES), side=st.integers(1, 130), overlap=st.integers(0, 90))
def test_tiles_are_equal_squares_that_cover_the_picture_and_overlap(size, side, overlap):
    (height, width), boxes = size, TileForm(side, overlap).boxes(size)
    if not boxes:
        assert max(size) <= side
        assert max(size) <= 2 * min(size)
        return
    due = min(side, *size)
    assert {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes} == {(due, due)}
    for ends, length in (({(b[0], b[2]) for b in boxes}, width), ({(b[1], b[3]) for b in boxes}, height)):
        in_order = sorted(ends)
        assert (in_order[0][0], in_order[-1][1]) == (0, length)
        shared = [end - start for (_, end), (start, _) in itertools.pairwise(in_order)]
        assert all(each >= min(overlap, due * 3 // 4) for each in shared)
        assert len(ends) <= 1 + -(-length // max(1, due - min(overlap, due * 3 // 4)))
    assert len(set(boxes)) == len(boxes)


@pytest.mark.parametrize(
    "picture",
    ["a/b.tif", "b", "a.b/.c.d.png", "t.tar!x/y.jpg", "f.parquet#7", "a%20b/c%252E.png", "x@1,2,3,4of5x6.png"],
)
def test_a_name_tells_picture_box_and_size(picture):
    tile = Tile(picture, (4096, 0, 5120, 1024), (6144, 8192))
    assert "." not in tile.name.rpartition("/")[2].removesuffix(".png")
    assert Tile.named(f"tiles-000000-0123abcd.tar!{quote(tile.name)}") == tile
    assert Tile.named(quote(tile.name)) == tile


def test_the_name_is_that_of_the_guide():
    assert Tile("a/b.tif", (4096, 0, 5120, 1024), (6144, 8192)).name == "a/b%2Etif@4096,0,5120,1024of8192x6144.png"


@pytest.mark.parametrize(
    "name", ["a.png", "a@1,2.png", "a@5,0,5,9of9x9.png", "a@0,0,10,9of9x9.png", "@0,0,1,1of2x2.png"]
)
def test_other_names_are_of_no_tile(name):
    assert Tile.named(quote(name)) is None


@pytest.mark.parametrize(
    ("box", "tile", "cut"),
    [
        ((2, 2, 14, 14), (10, 10, 26, 26), False),
        ((1, 2, 14, 14), (10, 10, 26, 26), True),
        ((2, 1, 14, 14), (10, 10, 26, 26), True),
        ((2, 2, 15, 14), (10, 10, 26, 26), True),
        ((2, 2, 14, 15), (10, 10, 26, 26), True),
        ((0, 0, 14, 14), (0, 0, 16, 16), False),
        ((0, 0, 16, 16), (24, 14, 40, 30), True),
        ((2, 2, 16, 16), (24, 14, 40, 30), False),
    ],
)
def test_a_mask_is_cut_within_two_pixels_of_an_inner_edge(box, tile, cut):
    assert is_cut(box, tile, (30, 40)) is cut


@pytest.mark.parametrize("layout", sorted(LAYOUTS), ids=str)
def test_no_pixel_differs_in_any_layout(prover, layout):
    for data, _ in cells(layout):
        due = decode_upright(data, ImagesConfig())
        assert np.array_equal(assembled(prover, data), due)


def test_a_picture_that_is_turned_by_exif_is_cut_upright():
    data = oriented(random_pixels(40, 70), 6)
    with Prover(ImagesConfig(phash=True), form=FORM) as prover:
        assert np.array_equal(assembled(prover, data), decode_upright(data, ImagesConfig()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "orientation"), [("RGB", 6), *(pytest.param(each, 1, marks=pytest.mark.long) for each in ("RGB", "I;16"))]
)
def test_a_picture_is_cut_within_four_bytes_a_pixel_and_some(mode, orientation):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, (8000, 6000)).save(file, "PNG", compress_level=1, exif=exif)
    limits = ImagesConfig(phash=True, decoder_memory_bytes=2**28)
    assert limits.decoder_memory_bytes < 6 * 8000 * 6000
    with Prover(limits, form=TileForm(1500, 0)) as prover:
        proof, tiles = prover.cut(file.getvalue())
        assert proof.size == ((6000, 8000) if orientation == 1 else (8000, 6000))
        assert len(list(tiles)) == 24


def assembled(prover, data):
    proof, tiles = prover.cut(data)
    whole, is_there = np.zeros((*proof.size, 3), np.uint8), np.zeros(proof.size, bool)
    for (x0, y0, x1, y1), tile in tiles:
        with Image.open(io.BytesIO(tile)) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            whole[y0:y1, x0:x1] = np.asarray(image)
        is_there[y0:y1, x0:x1] = True
    assert is_there.all()
    return whole


def test_tiles_that_nobody_takes_are_not_given_for_another_picture():
    first, second = png(40, 60, seed=1), png(40, 60, seed=2)
    with Prover(ImagesConfig(phash=True), form=FORM) as prover:
        _, tiles = prover.cut(first)
        next(tiles)
        assert np.array_equal(assembled(prover, second), decode_upright(second, ImagesConfig()))


def test_a_child_that_dies_between_tiles_is_replaced_once():
    data = png(40, 60)
    with Prover(ImagesConfig(phash=True), form=FORM) as prover:
        due = [box for box, _ in prover.cut(data)[1]]
        _, tiles = prover.cut(data)
        found = [next(tiles)[0]]
        end_child_of(prover)
        assert found + [box for box, _ in tiles] == due


def end_child_of(prover):
    # The tiles left are more than a pipe holds, so the child is alive, and waits.
    prover._child.kill()  # the process has no name that a caller knows


def test_marks_are_read_back_and_change_no_pixel():
    plain = png(16, 16)
    with_marks = marked(plain, "ab" * 32, "0123456789abcdef")
    assert marks_of(with_marks) == ("ab" * 32, "0123456789abcdef")
    assert np.array_equal(decode_upright(with_marks, ImagesConfig()), decode_upright(plain, ImagesConfig()))
    assert marks_of(plain) == (None, None)
    assert marks_of(encode(random_pixels(), "JPEG")) == (None, None)
    assert marks_of(marked(plain, "AB" * 32, "no hash")) == (None, None)


def test_a_picture_that_does_not_decode_has_no_tiles():
    with Prover(ImagesConfig(phash=True), form=FORM) as prover, pytest.raises(ImageError, match="cut short"):
        prover.cut(png(40, 60)[:-40])
