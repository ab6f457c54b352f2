"""`pseudoris tile` as a user meets it: what DEST holds, what is refused, and what the rules leave out."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pseudoris import RisDataset, SampleSpec
from pseudoris.files.location import RunLocation, storage_at
from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.images.prover import Prover
from pseudoris.images.tiles import Tile, marks_of
from pseudoris.interchange.exclusions import read_exclusions
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import Shard
from pseudoris.store.exclusion_rules import ExclusionMatcher
from pseudoris.store.runs.lock import LOCK_FOLDER, LockTimes, RunLock
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.shard_tables import shard_tables
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from tests.builders.command import invoke, pseudoris_here
from tests.builders.images import encode, png, png_16_bit, random_pixels
from tests.builders.plain_runs import work_off
from tests.builders.runs import part_digests
from tests.builders.scene_runs import plain_object, scenes
from tests.builders.sources import parquet_bytes, plan_of, tar_bytes, write_files
from tests.store.builders import killed_at_write

SIZE = ("--size", "64", "--overlap", "8")


def members(place):
    """Return name and bytes of all members of the tars at a place, in order."""
    storage, found = storage_at(str(place)), []
    for file in sorted(storage.list(""), key=lambda each: each.name):
        if file.name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(storage.read(file.name))) as tar:
                found += [(each.name, tar.extractfile(each).read()) for each in tar]
    return found


def pictures_of(place):
    """Return the pictures at a place by name: those copied, and those put together again of their tiles."""
    found = {}
    for name, data in members(place):
        tile, pixels = Tile.named(name.replace("%", "%25")), decode_upright(data, ImagesConfig())
        if tile is None:
            found[name] = pixels
            continue
        x0, y0, x1, y1 = tile.box_xyxy_px
        found.setdefault(tile.picture, np.zeros((*tile.picture_size, 3), np.uint8))[y0:y1, x0:x1] = pixels
    return found


def test_tiles_make_the_pictures_again_and_what_fits_is_copied(tmp_path):
    fits = encode(random_pixels(40, 60), "TIFF")
    large, long = random_pixels(90, 150, seed=1), random_pixels(20, 60, seed=2)
    source = write_files(
        tmp_path / "in", {"a/large.v1.tif": encode(large, "TIFF"), "long.png": encode(long), "x y.tif": fits}
    )
    printed = invoke("tile", source, tmp_path / "out", *SIZE).output
    assert re.search(r"cut +2 pictures into 11 tiles", printed)
    assert re.search(r"copied +1 picture\b", printed)
    found = pictures_of(tmp_path / "out")
    assert found.keys() == {"a/large.v1.tif", "long.png", "x y.tif"}
    assert np.array_equal(found["a/large.v1.tif"], large)
    assert np.array_equal(found["long.png"], long)
    assert dict(members(tmp_path / "out"))["x y.tif"] == fits


def test_each_tile_bears_digest_and_hash_of_its_picture(tmp_path):
    pixels = random_pixels(90, 150)
    write_files(tmp_path / "in", {"a.bmp": (data := encode(pixels, "BMP"))})
    invoke("tile", tmp_path / "in", tmp_path / "out", *SIZE)
    assert {marks_of(png) for _, png in members(tmp_path / "out")} == {(sha256_hex(data), perceptual_hash(pixels))}


def test_members_and_rows_keep_names_that_tell_them_apart(tmp_path):
    rows = parquet_bytes({"bytes": [png(seed=3), png(90, 90, seed=4)]})
    files = {"t.tar": tar_bytes([("d/a.png", png(seed=1)), ("d/b.png", png(90, 90, seed=2))]), "t2.parquet": rows}
    invoke("tile", write_files(tmp_path / "in", files), tmp_path / "out", *SIZE)
    names = [name for name, _ in members(tmp_path / "out")]
    assert names[0] == "t.tar/d/a.png"
    assert names[1] == "t.tar!d/b%2Epng@0,0,64,64of90x90.png"
    assert names[5] == "t2.parquet/0.png"
    assert names[6] == "t2%2Eparquet#1@0,0,64,64of90x90.png"
    listed = list(open_source(str(tmp_path / "out"), load_config("tiny").source).list())
    assert len(listed) == len(names) == 10
    assert sum(Tile.named(item.key) is not None for item in listed) == 8


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_the_same_command_continues_and_another_is_refused(kind, tmp_path, request, monkeypatch):
    dest = str(tmp_path / "out")
    if kind == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_server").endpoint_url)
        dest = f"s3://{request.getfixturevalue('s3_bucket')}/out"
    source = write_files(tmp_path / "in", {f"{name}.tar": tar_bytes([("a.png", png(90, 90))]) for name in "abc"})
    invoke("tile", source, dest, *SIZE)
    due = members(dest)
    lost = next(file.name for file in storage_at(dest).list("") if file.name.startswith("tiles-000001"))
    storage_at(dest).delete(lost)
    assert re.search(r"tars +3, 2 of them by an earlier call", invoke("tile", source, dest, *SIZE).output)
    assert members(dest) == due
    for words in (("--size", "72", "--overlap", "8"), (*SIZE, "--set", "images.min_side=5")):
        said = pseudoris_here("tile", str(source), dest, *words, code=2).stderr
        assert "was begun with another SOURCE, --size, --overlap, --exclude, --only or images.*" in said
    (source / "c.tar").unlink()
    assert "SOURCE has changed" in pseudoris_here("tile", str(source), dest, *SIZE, code=2).stderr


@pytest.mark.long
def test_tiles_below_source_are_no_pictures_of_another_command(tmp_path):
    source = write_files(tmp_path / "photos", {"a.png": png(90, 90)})
    invoke("tile", source, source / "tiles", *SIZE)
    invoke("tile", source, source / "more", *SIZE)
    assert pictures_of(source / "more").keys() == {"a.png"}
    counted = pseudoris_here("annotate", str(source), str(tmp_path / "out"), "--preset", "tiny", "--dry-run", code=0)
    assert re.search(r"images +1\b", counted.stdout), counted.stdout


@pytest.mark.long
def test_killed_at_any_write_the_same_command_gives_the_same_tars(tmp_path, monkeypatch):
    source = write_files(tmp_path / "in", {f"{name}.tar": tar_bytes([("a.png", png(90, 90))]) for name in "abc"})
    invoke("tile", source, tmp_path / "due", *SIZE)
    for number in range(1, 10):
        dest = tmp_path / f"kill-{number}"
        with killed_at_write(number, monkeypatch) as is_due:
            pseudoris_here("tile", str(source), str(dest), *SIZE)
        if not is_due():
            break
        invoke("tile", source, dest, *SIZE)
        assert members(dest) == members(tmp_path / "due")
        assert not [path.name for path in dest.rglob(".tmp*")]
    assert number > 3


def test_a_place_with_other_files_is_refused(tmp_path):
    source = write_files(tmp_path / "in", {"a.png": png(90, 90)})
    for name in ("notes.txt", "folder/notes.txt"):
        dest = write_files(tmp_path / name.replace("/", "-"), {name: b""})
        said = pseudoris_here("tile", str(source), str(dest), code=2).stderr
        assert f"holds other files: {name.split('/')[0]}. Name an empty place for the tiles" in said
        assert [path.name for path in dest.iterdir()] == [name.split("/")[0]]


def test_a_log_or_a_hidden_file_is_let_be_at_the_start_and_later(tmp_path):
    source = write_files(tmp_path / "in", {"a.png": png(90, 90)})
    dest = write_files(tmp_path / "out", {"run.log": b"", "c.yaml": b""})
    invoke("tile", source, dest, *SIZE)
    write_files(dest, {".DS_Store": b"", "later.log": b""})
    assert "1 of them by an earlier call" in invoke("tile", source, dest, *SIZE).output


@pytest.mark.slow
def test_a_place_has_one_owner(tmp_path):
    source = write_files(tmp_path / "in", {"a.png": png(90, 90)})
    with RunLock.held(RunLocation.open(str(tmp_path / "out")), times=LockTimes(heartbeat_s=0.5)):
        said = pseudoris_here("tile", str(source), str(tmp_path / "out"), *SIZE, code=2).stderr
        assert re.search(rf"note process {os.getpid()} on .* holds the lock", said)
        assert f"process {os.getpid()} on" in said.partition("\n")[2]
        assert "is working on" in said
    invoke("tile", source, tmp_path / "out", *SIZE)
    assert not (tmp_path / "out" / LOCK_FOLDER).exists()


def test_a_tar_whose_record_is_damaged_is_written_again(tmp_path):
    source = write_files(tmp_path / "in", {"a.png": png(90, 90)})
    invoke("tile", source, tmp_path / "out", *SIZE)
    due = members(tmp_path / "out")
    (record,) = (tmp_path / "out" / ".tiles").glob("0*.json")
    for data in (b'{"num_cut": 3', b'{"cut": 3}', b"\xff"):
        record.write_bytes(data)
        assert "1 picture into 4 tiles" in invoke("tile", source, tmp_path / "out", *SIZE).output
        assert members(tmp_path / "out") == due


@pytest.mark.long
def test_a_moved_source_gives_the_same_keys_and_what_changed_in_place_is_cut_again(tmp_path, monkeypatch):
    pictures = {"a.png": png(90, 90), "b.bmp": encode(random_pixels(90, 90), "BMP")}
    for name, time_s in (("one", 1_000_000_000), ("two", 1_100_000_000)):
        for path in write_files(tmp_path / name, pictures).iterdir():
            os.utime(path, (time_s, time_s))
        invoke("tile", tmp_path / name, tmp_path / f"{name}-tiles", *SIZE)
    ours = load_config("tiny").source
    one, two = (
        [each.key for each in open_source(str(tmp_path / f"{name}-tiles"), ours).list()] for name in ("one", "two")
    )
    assert one == two
    changed = random_pixels(90, 90, seed=1)
    (tmp_path / "two" / "b.bmp").write_bytes(encode(changed, "BMP"))
    for number in range(1, 9):
        dest = shutil.copytree(tmp_path / "two-tiles", tmp_path / f"kill-{number}")
        with killed_at_write(number, monkeypatch) as is_due:
            pseudoris_here("tile", str(tmp_path / "two"), str(dest), *SIZE)
        invoke("tile", tmp_path / "two", dest, *SIZE)
        assert np.array_equal(pictures_of(dest)["b.bmp"], changed)
        if not is_due():
            break
    assert number > 2


def test_a_place_that_tile_has_not_finished_is_refused_as_source(tmp_path, monkeypatch):
    source = write_files(tmp_path / "in", {f"{name}.tar": tar_bytes([("a.png", png(90, 90))]) for name in "ab"})
    invoke("tile", source, tmp_path / "due", *SIZE)
    for number in range(1, 10):
        dest = tmp_path / f"kill-{number}"
        with killed_at_write(number, monkeypatch) as is_due:
            pseudoris_here("tile", str(source), str(dest), *SIZE)
        if not is_due():
            break
        plan = ("annotate", str(dest), str(tmp_path / "run"), "--preset", "tiny", "--dry-run")
        said = pseudoris_here(*plan, code=2).stderr
        has_tar = any(dest.glob("tiles-*.tar"))
        assert not has_tar or "`pseudoris tile` has not finished there" in said
    assert has_tar
    # Who copies the tars alone has them all.
    write_files(tmp_path / "copy", {path.name: path.read_bytes() for path in (tmp_path / "due").glob("*.tar")})
    assert len(list(open_source(str(tmp_path / "copy"), load_config("tiny").source).list())) == 8


def test_a_picture_that_does_not_decode_is_listed_and_leaves_no_tile(tmp_path):
    # The damage is found after the pixels: no tile may be there before.
    cut_short = encode(random_pixels(90, 90), "TIFF")[:-9000]
    source = write_files(tmp_path / "in", {"a.tif": cut_short, "b.png": png(90, 90), "c.png": b""})
    printed = invoke("tile", source, tmp_path / "out", *SIZE).output
    assert re.search(r"left out +1 corrupt, 1 empty_file", printed)
    assert {Tile.named(name.replace("%", "%25")).picture for name, _ in members(tmp_path / "out")} == {"b.png"}
    due = [["a.tif", "corrupt"], ["c.png", "empty_file"]]
    (record,) = (tmp_path / "out" / ".tiles").glob("0*.json")
    assert [row[:2] for row in json.loads(record.read_bytes())["left_out"]] == due
    assert json.loads((tmp_path / "out" / ".tiles" / "left_out.json").read_bytes()) == due
    planned = invoke("annotate", tmp_path / "out", tmp_path / "run", "--preset", "tiny", "--dry-run").output
    assert "in no tile (.tiles/left_out.json): 2 that cannot be read, such as 'a.tif' (corrupt), 'c.png'" in planned


def test_a_list_of_unread_pictures_that_is_a_strangers_is_passed_over(tmp_path):
    invoke("tile", write_files(tmp_path / "in", {"a.png": png(90, 90)}), tmp_path / "out", *SIZE)
    for data in (b"[", b"{}", b'[["a", "\\u001b[2J"]]', b'[["a", "b", "c"]]'):
        write_files(tmp_path / "out", {".tiles/left_out.json": data})
        source = open_source(str(tmp_path / "out"), load_config("tiny").source)
        assert len(list(source.list())) == 4
        assert not list(source.left_out.notices())


def test_bits_are_those_of_the_whole_picture(tmp_path):
    # A dark corner alone would be stretched.
    levels = np.full((90, 90), 200, np.uint16)
    levels[80:, 80:] = 4000
    source = write_files(tmp_path / "in", {"a.png": png_16_bit(levels)})
    invoke("tile", source, tmp_path / "auto", *SIZE)
    invoke("tile", source, tmp_path / "stored", *SIZE, "--set", "images.bits=stored")
    for name, most in (("auto", 4095), ("stored", 65535)):
        found = pictures_of(tmp_path / name)["a.png"]
        assert {int(found[0, 0, 0]), int(found[-1, -1, 0])} == {round(200 * 255 / most), round(4000 * 255 / most)}


def test_a_window_and_the_least_side_act_on_the_picture(tmp_path):
    depth = np.linspace(-100, 300, 90 * 90, dtype=np.float32).reshape(90, 90)
    files = {"a.tif": encode(Image.fromarray(depth), "TIFF"), "icon.png": png(20, 90)}
    words = ("--set", "images.window=[0,200]", "--set", "images.min_side=32")
    printed = invoke("tile", write_files(tmp_path / "in", files), tmp_path / "out", *SIZE, *words).output
    assert re.search(r"left out +1 too_small", printed)
    found = pictures_of(tmp_path / "out")
    assert found.keys() == {"a.tif"}
    assert np.array_equal(found["a.tif"][..., 0], np.rint(np.clip(depth.astype(np.float64) / 200, 0, 1) * 255))


def test_annotate_decodes_what_fits_as_tiles_were(tmp_path):
    depth = np.linspace(-100, 300, 60 * 60, dtype=np.float32).reshape(60, 60)
    source = write_files(tmp_path / "in", {"a.tif": encode(Image.fromarray(depth), "TIFF")})
    words = ("--set", "images.window=[0, 200]", "--set", "images.bits=12")
    printed = invoke("tile", source, tmp_path / "out", *SIZE, *words).output
    (line,) = (line for line in printed.splitlines() if "--preset PRESET" in line)
    again = [word for word in shlex.split(line) if word.startswith("images.")]
    assert load_config("tiny", None, again).images == load_config("tiny", None, words[1::2]).images
    assert "--set" not in invoke("tile", source, tmp_path / "plain", *SIZE).output


LISTED = [f"{number:012d}.png" for number in range(20)]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Return 20 pictures that must not be in, among 25 of a SOURCE; half of them are cut, the others fit."""
    folder = tmp_path_factory.mktemp("benchmark")
    smooth = [
        np.asarray(Image.fromarray(random_pixels(6, 6, seed=each)).resize((100 - 4 * each,) * 2)) for each in range(25)
    ]
    names = [*LISTED, *(f"free{number}.png" for number in range(5))]
    write_files(folder / "in" / "train2017", {name: encode(each) for name, each in zip(names, smooth, strict=True)})
    listed = dict(zip(LISTED, smooth, strict=False))
    write_files(folder / "copies", {f"renamed{name}": encode(each) for name, each in listed.items()})
    write_files(
        folder / "again", {f"again{name}.jpg": encode(each, "JPEG", quality=80) for name, each in listed.items()}
    )
    (folder / "names.txt").write_text("\n".join(LISTED))
    (folder / "ids.txt").write_text("\n".join(str(int(name[:12])) for name in LISTED))
    (folder / "free.txt").write_text("\n".join(names[20:]))
    digests = [sha256_hex((folder / "in" / "train2017" / name).read_bytes()) for name in LISTED]
    (folder / "sha256.csv").write_text("\n".join(["sha256", *digests]))
    (folder / "phash.csv").write_text("\n".join(["phash", *map(perceptual_hash, listed.values())]))
    return folder


@pytest.mark.parametrize("rule", ["names.txt", "ids.txt", "sha256.csv", "phash.csv", "copies", "again", "--only"])
def test_no_listed_picture_leaks_by_any_kind_of_rule(rule, benchmark, tmp_path):
    words = ("--only", benchmark / "free.txt") if rule == "--only" else ("--exclude", benchmark / rule)
    printed = invoke("tile", benchmark / "in", tmp_path / "out", *SIZE, *words).output
    assert re.search(r"left out +20 excluded", printed)
    assert pictures_of(tmp_path / "out").keys() == {f"train2017/free{number}.png" for number in range(5)}


def test_a_rule_that_excludes_nothing_is_told(benchmark, tmp_path):
    (tmp_path / "other.txt").write_text("other.png")
    printed = invoke("tile", benchmark / "in", tmp_path / "out", *SIZE, "--exclude", tmp_path / "other.txt").output
    assert "other.txt excludes none of the listed images" in printed


def test_limits_of_bytes_and_pixels_are_those_of_the_command(tmp_path):
    source = write_files(tmp_path / "in", {"a.png": png(90, 90)})
    words = ("--set", "images.max_bytes=100", "--set", "images.max_pixels=100")
    invoke("tile", source, tmp_path / "out", *SIZE, *words)
    assert len(members(tmp_path / "out")) == 4


def read(place, *words, **rules):
    """Return the images of a SOURCE, as `annotate` reads and proves them."""
    config = load_config("tiny", None, words)
    matcher = ExclusionMatcher(rules["exclusions"]) if rules else None
    with Prover(config.images.hashed()) as prover:
        entries = plan_of(open_source(str(place), config.source).list())
        return read_shard(str(place), config, entries, prover=prover, exclusions=matcher).images


def test_annotate_knows_of_each_tile_where_it_lies_and_of_which_picture(tmp_path):
    pixels = random_pixels(90, 150)
    files = {"a/b.c.png": (data := encode(pixels)), "fits.png": png()}
    invoke("tile", write_files(tmp_path / "in", files), tmp_path / "out", *SIZE)
    *tiles, fits = read(tmp_path / "out")
    assert len(tiles) == 6
    for image in tiles:
        x0, y0, x1, y1 = image.tile_xyxy_px
        assert np.array_equal(decode_upright(image.data, ImagesConfig()), pixels[y0:y1, x0:x1])
        assert (image.picture, image.picture_size) == ("a/b.c.png", (90, 150))
        assert (image.picture_sha256, image.picture_phash) == (sha256_hex(data), perceptual_hash(pixels))
        assert image.sha256 == sha256_hex(image.data)
    assert (fits.picture, fits.picture_size, fits.tile_xyxy_px, fits.picture_sha256) == (None, (), (), None)
    rows = shard_tables(Shard(0, 0, (tiles[0], fits)), embed_images=False)["images"].to_pylist()
    assert [row["picture_size"] for row in rows] == [[90, 150], None]


def test_a_name_that_does_not_fit_its_picture_is_of_no_tile(tmp_path):
    write_files(tmp_path / "in", {"a%2Epng@0,0,64,64of90x90.png": png(60, 64)})
    (image,) = read(tmp_path / "in")
    assert (image.failure, image.picture) == (None, None)


@pytest.mark.parametrize("rule", ["names.txt", "ids.txt", "sha256.csv", "phash.csv", "copies", "again"])
def test_rules_that_are_given_to_annotate_alone_act_by_the_picture_too(rule, benchmark, tmp_path):
    invoke("tile", benchmark / "in", tmp_path / "out", *SIZE)
    rules = read_exclusions([str(benchmark / rule)])
    matcher = ExclusionMatcher(rules)
    left = [
        each
        for each in read(tmp_path / "out", exclusions=rules)
        if not each.failure and matcher.matched(each.key)[0] is None
    ]
    assert {(each.picture or each.key.partition("!")[2]).removeprefix("train2017/")[:4] for each in left} == {"free"}


@pytest.fixture(scope="module")
def tiled_run(tmp_path_factory):
    """Return a folder with runs `a` and `b`, of the tiles of one picture under two names."""
    folder = tmp_path_factory.mktemp("tiled")
    drawn = np.concatenate([render(scene).image for scene in scenes(2).values()], axis=1)
    for name in "ab":
        write_files(folder / f"in-{name}", {f"{name}.png": encode(drawn)})
        invoke("tile", folder / f"in-{name}", folder / f"tiles-{name}", "--size", "192", "--overlap", "48")
        work_off(folder / f"tiles-{name}", folder / name, load_config("tiny", None, ["composing={}"]))
    return folder


@pytest.mark.slow
def test_a_run_of_tiles_marks_and_counts_what_edges_cut(tiled_run):
    invoke("verify", tiled_run / "a")
    run = OpenRun.at(RunLocation.open(str(tiled_run / "a")))
    masks, expressions = run.table("masks").to_pylist(), run.table("expressions").to_pylist()
    cut = {row["mask_id"] for row in masks if row["is_cut"]}
    assert 0 < len(cut) < len(masks)
    assert cut.isdisjoint(target for row in expressions for target in row["target_mask_ids"])
    (shard,) = run.shards()
    assert shard.receipt.masks_left["cut_edges"] == len(masks) - len(cut)
    assert {tuple(row["picture_size"]) for row in run.table("images").to_pylist()} == {(192, 384)}


@pytest.mark.slow
def test_refilter_composes_no_tiles_anew_but_keeps_them_by_another_tau(tiled_run, tmp_path):
    invoke("refilter", tiled_run / "a", tmp_path / "lower", "--tau", "1.1")
    invoke("verify", tmp_path / "lower")
    with pytest.raises(ConfigError, match=r"has masks that edges of tiles cut .* and no captions of these"):
        invoke("refilter", tiled_run / "a", tmp_path / "anew", "--set", "composing.min_further=0.95")


@pytest.mark.slow
def test_tiles_that_cut_nothing_are_composed_anew_as_annotate_composes_them(tmp_path):
    # Two objects a tile, away from its edges, which share words.
    halves = [("star", "red", "circle", "blue"), ("circle", "red", "star", "green")]
    drawn = [
        render(
            replace(make_scene(Split.DEMO, 0), objects=(plain_object(*each[:2], 56.0), plain_object(*each[2:], 136.0)))
        )
        for each in halves
    ]
    write_files(tmp_path / "in", {"a.png": encode(np.concatenate([each.image for each in drawn], axis=1))})
    invoke("tile", tmp_path / "in", tmp_path / "tiles", "--size", "192", "--overlap", "0")
    words = ["composing={}", "composing.kinds=[attribute]"]
    work_off(tmp_path / "tiles", tmp_path / "before", load_config("tiny", None, words[:1]))
    work_off(tmp_path / "tiles", tmp_path / "due", load_config("tiny", None, words))
    invoke("refilter", tmp_path / "before", tmp_path / "found", "--set", words[1])
    before, due, found = (part_digests(tmp_path / name) for name in ("before", "due", "found"))
    assert before != due == found


@pytest.mark.slow
def test_copies_of_a_picture_go_with_all_their_tiles(tiled_run, tmp_path):
    shown = invoke("combine", tiled_run / "a", tiled_run / "b", tmp_path / "both", "--unique", "bytes").output
    assert re.search(r"left out +3 images, listed in", shown)
    pictures = OpenRun.at(RunLocation.open(str(tmp_path / "both"))).table("images")["picture"].to_pylist()
    assert pictures == ["a/a.png"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sha256", "phash"])
def test_an_export_and_a_data_set_leave_out_tiles_of_a_listed_picture(kind, tiled_run, tmp_path):
    data = (tiled_run / "in-a" / "a.png").read_bytes()
    values = {"sha256": sha256_hex(data), "phash": perceptual_hash(decode_upright(data, ImagesConfig()))}
    (tmp_path / "listed.csv").write_text(f"{kind}\n{values[kind]}")
    words = ("--format", "coco", "--exclude", tmp_path / "listed.csv")
    with pytest.raises(ConfigError, match=r"3 images excluded by listed\.csv"):
        invoke("export", tiled_run / "a", tmp_path / "out", *words)
    if kind == "sha256":
        assert len(RisDataset(tiled_run / "a"))
        with pytest.raises(ConfigError, match="No expression of the run"):
            RisDataset(tiled_run / "a", SampleSpec(exclude=str(tmp_path / "listed.csv")))
