"""One run of several equals its parents but for keys and ids, whatever happens on the way."""

from __future__ import annotations

import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.files.named_places import moved_places, named_runs
from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.pipeline.stored_masks import masks_parent
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.keep_rule import KeepCondition
from pseudoris.schemas.shard import MasksLeft
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.reports.data_card import root_of
from pseudoris.store.runs.copied_pictures import (
    LEFT_OUT_NAME,
    CopyCounts,
    LeftOutImages,
    NearHashes,
    Picture,
    count_copies,
)
from pseudoris.store.runs.header import check_origin, read_header, require_header
from pseudoris.store.runs.held_out_pictures import HoldOut, split_images
from pseudoris.store.runs.receipts import latest_receipts, list_receipts, receipt_path
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.kept_clauses import ONE_OF_SEVERAL
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.viewer.gallery_sample import read_summary
from tests.builders.images import encode
from tests.builders.scored_runs import begin, commit_scored, finish, scored_run
from tests.builders.seals import forge_header, without_digests
from tests.store.builders import (
    annotated,
    commit_images,
    empty,
    killed_at_write,
    make_entries,
    parts,
    quarantined,
    start_run,
)

IDS = ("image_id", "mask_id", "target_mask_ids", "rival_mask_id", "grounding_rival")


@pytest.fixture
def place(tmp_path):
    return lambda name: RunLocation.open(str(tmp_path / name))


@pytest.fixture
def two(place):
    """Return two runs over the same keys, of other rules and other scores."""
    first, second = place("v1"), place("v2")
    scored_run(first, num_shards=2)
    scored_run(second, "filtering.tau=1.2", "filtering.keep=['count >= 2']", num_shards=3)
    return [("v1", first), ("v2", second)]


def rows_of(location: RunLocation, table: str) -> list[dict]:
    return OpenRun.at(location).table(table).to_pylist()


def named(row: dict, name: str) -> dict:
    """Return a row of a parent with the key and the ids that it has in a combined run, computed in plain words."""
    keys = {image_id(key): f"{name}/{key}" for key in ALL_KEYS}

    def renamed(value: object) -> object:
        if isinstance(value, list):
            return [renamed(each) for each in value]
        if not isinstance(value, str):
            return value
        image, hyphen, number = value.partition("-")
        return image_id(keys[image]) + hyphen + number

    changed = {column: renamed(value) for column, value in row.items() if column in IDS}
    return {**row, **changed, **({"key": f"{name}/{row['key']}"} if "key" in row else {})}


ALL_KEYS = [each.key for each in make_entries(5, 5)]


def files_of(location: RunLocation) -> dict[str, bytes]:
    return {p: without_digests(p, data) for p, data in parts(location, "_plan/g0001", "_receipts").items()}


def test_rows_are_those_of_the_parents_with_other_keys_and_ids(two, place):
    summary = combine(two, new := place("new"))
    report = verify_run(new)
    assert report.is_clean, report.problems
    for table in SCHEMAS:
        assert rows_of(new, table) == [named(row, name) for name, run in two for row in rows_of(run, table)]
    counts = [each.counts for _, run in two for each in latest_receipts(run)]
    assert [each.counts for each in latest_receipts(new)] == counts
    assert summary.images == {"v1": 10, "v2": 15}
    header = require_header(new)
    assert (header.origin, [each.name for each in header.combined]) == ("combine", ["v1", "v2"])
    for run, (_, parent) in zip(header.combined, two, strict=True):
        own = require_header(parent)
        assert (run.source, run.identity, run.config, run.root) == (
            own.source,
            own.identity,
            own.config,
            root_of(parent),
        )


def test_keys_and_parts_of_one_run_stay(two, place):
    combine([("", two[1][1])], new := place("new"))
    assert parts(new) == parts(two[1][1])
    assert verify_run(new).is_clean
    combine([("a b", two[1][1])], other := place("other"))
    assert rows_of(other, IMAGES)[0]["key"] == "a%20b/" + rows_of(new, IMAGES)[0]["key"]


def test_combined_runs_combine(two, place):
    combine(two, inner := place("inner"))
    combine([("x", inner), ("v1", two[0][1])], new := place("new"))
    assert verify_run(new).is_clean
    header = require_header(new)
    assert [(each.name, each.num_shards) for each in header.combined] == [("x/v1", 2), ("x/v2", 3), ("v1", 2)]
    assert [header.of_shard(shard).name for shard in range(7)] == ["x/v1"] * 2 + ["x/v2"] * 3 + ["v1"] * 2
    assert rows_of(new, IMAGES)[0]["key"] == "x/v1/" + rows_of(two[0][1], IMAGES)[0]["key"]
    assert [each.config.filtering.tau for each in header.runs] == [1.0, 1.2, 1.0]


def test_runs_of_one_name_must_share_no_key(two, place):
    header = start_run(third := place("third"), make_entries(2, 5, first_shard=0), created_utc="2026-03-03T00:00:00Z")
    commit_images(third, header, empty)
    finish(third)
    with pytest.raises(ConfigError, match=r"both .*v1 and .*third have an image s0/0.png, and one name, 'v1'"):
        combine([("v1", two[0][1]), ("v1", third)], place("new"))
    entries = [each for each in make_entries(4, 5)[10:]]
    entries = [type(each)(each.shard - 2, *list(vars_of(each))[1:]) for each in entries]
    header = start_run(other := place("other"), entries, created_utc="2026-04-04T00:00:00Z")
    commit_images(other, header, empty)
    finish(other)
    combine([("same", two[0][1]), ("same", other)], new := place("new"))
    assert verify_run(new).is_clean
    assert {row["key"].partition("/")[0] for row in rows_of(new, IMAGES)} == {"same"}


def vars_of(entry) -> list[object]:
    return [getattr(entry, name) for name in entry.__slots__]


@pytest.mark.slow
def test_killed_at_ten_random_writes_the_same_call_finishes_with_the_same_bytes(two, place, monkeypatch):
    combine(two, whole := place("whole"))
    due, root = files_of(whole), verify_run(whole).root
    for number in random.Random(80).sample(range(1, 31), 10):
        new = place(f"kill-{number}")
        with killed_at_write(number, monkeypatch) as is_due:
            combine(two, new, num_threads=1)
        assert is_due()
        combine(two, new)
        assert files_of(new) == due, f"killed at write {number}"
        assert verify_run(new, root=root).is_clean
        shutil.rmtree(new.root)


@pytest.mark.slow
def test_two_at_once_write_one_run(two, place):
    combine(two, whole := place("whole"))
    new = place("new")
    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(lambda _: combine(two, new), range(2)))
    assert {each.totals.shards for each in summaries} == {5}
    assert files_of(new) == files_of(whole)
    assert verify_run(new).is_clean


def test_a_parent_that_changes_meanwhile_is_read_as_it_was_and_it_is_said(two, place):
    new = place("new")
    assert combine(two, new).notes == ()
    due = files_of(new)
    Path(new.uri(receipt_path(1, 0))).unlink()
    header = require_header(two[0][1])
    commit_scored(two[0][1], header, 0, generation=1)
    finish(two[0][1])
    again = combine(two, new)
    assert again.notes == (f"{two[0][1].root} has changed since: the new run has it as it was",)
    assert (again.num_shards_before, files_of(new)) == (4, due)
    Path(new.uri(receipt_path(0, 0))).unlink()
    with pytest.raises(ConfigError, match="was replaced by a retry of quarantined images"):
        combine(two, new)


def test_an_unfinished_run_is_refused_or_taken_as_far_as_it_is(two, place):
    header = begin(half := place("half"), num_shards=3)
    for shard in (0, 2):
        commit_scored(half, header, shard)
    runs = [*two, ("half", half)]
    with pytest.raises(ConfigError, match=r"half is not complete, 2 of 3 shards"):
        combine(runs, new := place("new"))
    assert read_header(new) is None
    assert combine(runs, new, is_partial=True).images["half"] == 10
    assert verify_run(new).is_clean
    keys = [row["key"] for row in rows_of(new, IMAGES) if row["key"].startswith("half/")]
    assert {key.split("/")[1] for key in keys} == {"s0", "s2"}
    commit_scored(half, header, 1)
    finish(half)
    Path(new.uri(receipt_path(6, 0))).unlink()
    notes = combine(runs, new, is_partial=True).notes
    assert len(list_receipts(new)) == 7
    assert notes[0].startswith(half.root)


def test_a_damaged_parent_is_told_and_a_lost_part_comes_back_from_it(two, place):
    combine(two, new := place("new"))
    receipt = list(latest_receipts(new))[3]
    path = f"masks/{receipt.parts[MASKS].name}"
    before = new.read_bytes(path)
    Path(new.uri(path)).unlink()
    assert not verify_run(new).is_clean
    combine(two, new, is_repair=True)
    assert new.read_bytes(path) == before
    assert verify_run(new).is_clean
    receipt = next(latest_receipts(two[0][1]))
    damaged = f"masks/{receipt.parts[MASKS].name}"
    two[0][1].replace(damaged, two[0][1].read_bytes(damaged)[:-1] + b"?")
    with pytest.raises(ConfigError, match=r"is damaged: .*`pseudoris annotate` command"):
        combine(two, other := place("other"))
    assert 0 not in list_receipts(other)


def test_mistakes_are_told_in_a_sentence(two, place):
    (_, first), (_, second) = two
    with pytest.raises(ConfigError, match="would be inside its parent"):
        combine(two, RunLocation.open(f"{first.root}/inner"))
    with pytest.raises(ConfigError, match="would be inside its parent"):
        combine(two, RunLocation.open(str(Path(first.root).parent)))
    with pytest.raises(ConfigError, match="is named twice"):
        combine([("a", first), ("b", first)], place("new"))
    forge_header(second, lambda tree: tree["identity"]["method"].update(recipe="pairs"))
    finish(second)
    with pytest.raises(ConfigError, match="holds pairs of PPT"):
        combine(two, place("new"))


def test_other_parents_for_the_same_output_are_refused(two, place):
    combine(two, new := place("new"))
    with pytest.raises(ConfigError, match=r"was combined from 2 runs .*, not from 1"):
        combine(two[:1], new)
    with pytest.raises(ConfigError, match=r"was made from the run .*v1, not from .*v2"):
        combine(two[::-1], new)
    with pytest.raises(ConfigError, match="another identity"):
        combine([("other", two[0][1]), two[1]], new)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a/run", "b/run"], "both a/run and b/run would be named 'run'"),
        (["run=a/run", "b/run"], "both a/run and b/run would be named 'run'"),
        (["a/b=run", "c"], "is no NAME=PATH"),
        (["=run", "c"], "is no NAME=PATH"),
        (["..=run", "c"], "is no NAME=PATH"),
    ],
)
def test_names_that_cannot_be_are_told(texts, said):
    with pytest.raises(ConfigError, match=said):
        named_runs(texts)


def test_names_are_of_folders_or_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y").mkdir()
    assert named_runs(["x=y"]) == [("", "x=y")]
    assert named_runs(["x=y", "s3://bucket/b=c/run/"]) == [("x=y", "x=y"), ("run", "s3://bucket/b=c/run/")]
    assert named_runs(["n=a", "n=b", "c"]) == [("n", "a"), ("n", "b"), ("c", "c")]
    assert moved_places(["a/b=p", "c=q"]) == {"a/b": "p", "c": "q"}
    assert moved_places(["p"]) == "p"
    with pytest.raises(ConfigError, match="has no name"):
        moved_places(["p", "c=q"])


def test_images_are_read_from_the_sources_of_their_runs_or_where_they_are_now(tmp_path, place):
    runs, digests = [], {}
    for name in ("v1", "v2"):
        (images := tmp_path / f"images {name}" / "s0").mkdir(parents=True)
        entries = [type(each)(*vars_of(each)[:4]) for each in make_entries(1, 2)]
        for entry in entries:
            (images / entry.key.rpartition("/")[2]).write_bytes(data := f"{name} {entry.key}".encode())
            digests[f"{name}/{entry.key}"] = sha256_hex(data)
        header = start_run(place(name), entries, source=str(images.parent), created_utc=f"2026-01-01 {name}")
        commit_images(place(name), header, empty)
        finish(place(name))
        runs.append((name, place(name)))
    combine(runs, new := place("new"))

    def read(**moved: object) -> dict[str, str]:
        planned = PlannedImages(new, require_header(new), **moved)
        found = {}
        for shard in range(2):
            keys = [row["key"] for row in OpenRun.at(new).shard(shard).table(IMAGES, ("key",)).to_pylist()]
            found |= {key: sha256_hex(outcome) for key, outcome in planned.read(shard, keys)}
        return found

    assert read() == digests
    shutil.move(tmp_path / "images v1", tmp_path / "elsewhere")
    assert read(source={"v1": str(tmp_path / "elsewhere")}) == digests
    (tmp_path / "all").mkdir()
    shutil.move(tmp_path / "elsewhere", tmp_path / "all" / "v1")
    shutil.move(tmp_path / "images v2", tmp_path / "all" / "v2")
    assert read(source=str(tmp_path / "all")) == digests
    with pytest.raises(ConfigError, match=r"no images 'v3' to be moved: .* has the names v1, v2"):
        read(source={"v3": "x"})


def test_annotate_refuses_it_and_says_what_to_do(two, place):
    combine(two, new := place("new"))
    said = r"to compute images again, use .*v1, .*v2, and combine again"
    with pytest.raises(ConfigError, match=said):
        check_origin(new, require_header(new), "annotate")


def test_a_refilter_of_it_has_no_one_proposers_masks_to_annotate_with(two, place):
    combine(two, both := place("both"))
    refilter(both, new := place("new"), RuleChange(tau=1.4))
    config = load_config("tiny", assignments=[f"placement.masks_from={new.root}"])
    with pytest.raises(ConfigError, match=r"--masks-from .*new is a run of `pseudoris combine`, whose masks no"):
        masks_parent(config, place("out"), None, RunOptions())


def test_composing_reads_what_each_of_its_runs_has_measured(place):
    runs = [("v1", place("v1")), ("v2", place("v2"))]
    asks = ("composing={}", "composing.has_colours=true", "composing.has_too_small=true")
    for number, (name, run) in enumerate(runs):

        def image_of(entry, number=number):
            image = annotated(entry)
            masks = tuple(replace(mask, colours=(1.0,) * 11) for mask in image.masks)
            return replace(image, masks=masks, num_too_small=None if number else 2)

        header = start_run(run, make_entries(2, 2), *asks[: 3 if number == 0 else 2], created_utc=name)
        commit_images(run, header, image_of)
        finish(run)

    def changed(parent, name, *words):
        change = RuleChange(composing=[f"composing.{each}" for each in words])
        refilter(parent, new := place(name), change, composer_of=lambda config: lambda image: image)
        return new

    # Columns stay where composing does not read them, so that a later refilter may.
    without = changed(runs[0][1], "without", "has_colours=false", "has_too_small=false")
    changed(without, "with", "has_colours=true", "has_too_small=true")
    said = r"composing\.has_too_small reads how many masks were too small, which .*v2 did not count: leave it out, or"
    with pytest.raises(ConfigError, match=said):
        changed(runs[1][1], "uncounted", "has_too_small=true")
    runs[0] = "v1", without
    combine([*runs[:1], ("v2", changed(runs[1][1], "unseen", "has_colours=false"))], both := place("both"))
    changed(both, "seen", "has_colours=true")
    with pytest.raises(ConfigError, match=r"which .*both \(v2\) did not count"):
        changed(both, "some", "has_too_small=true")


def test_refilter_changes_the_rule_of_each_and_what_is_not_named_stays(two, place):
    combine(two, both := place("both"))
    summary = refilter(both, new := place("new"), RuleChange(keep=[KeepCondition.model_validate("correctness > 0.4")]))
    assert [(each.run, each.condition) for each in summary.clauses if each.kinds == (ONE_OF_SEVERAL,)] == [
        ("v1", "distinctiveness > 1 and correctness > 0.4"),
        ("v2", "distinctiveness > 1.2 and correctness > 0.4"),
    ]
    assert verify_run(new).is_clean
    apart = []
    for name, run in two:
        refilter(run, place(f"{name}-new"), RuleChange(keep=[KeepCondition.model_validate("correctness > 0.4")]))
        apart.append((name, place(f"{name}-new")))
    combine(apart, other := place("other"))
    assert {path: data for path, data in parts(new).items() if path.startswith(EXPRESSIONS)} == {
        path: data for path, data in parts(other).items() if path.startswith(EXPRESSIONS)
    }
    assert rows_of(new, FAILURES) == rows_of(both, FAILURES)
    with pytest.raises(ConfigError, match="the parent already keeps"):
        refilter(new, place("again"), RuleChange(keep=[KeepCondition.model_validate("correctness > 0.4")]))


@pytest.fixture
def copies(place):
    """Return two runs: each key of the second has the bytes of the first but for one shard, and one is there twice."""

    def bytes_of(entry, name: str):
        number = 0 if name == "v2" and entry.key == "s2/1.png" else entry.position
        data = f"{entry.shard}-{number}" if entry.shard < 2 else f"{name} {entry.shard}-{number}"
        return replace(annotated(entry), data=data.encode(), sha256=sha256_hex(data.encode()))

    for name in ("v1", "v2"):
        header = start_run(place(name), make_entries(3, 2), created_utc=f"2026-01-01 {name}")
        commit_images(place(name), header, partial(bytes_of, name=name))
        finish(place(name))
    return [(name, place(name)) for name in ("v1", "v2")]


def test_copies_are_left_out_with_their_rows_and_listed(copies, place):
    summary = combine(copies, new := place("new"), unique="bytes")
    report = verify_run(new)
    assert report.is_clean, report.problems
    listed = pq.read_table(new.uri(LEFT_OUT_NAME)).to_pylist()
    assert [(each["key"], each["copy_of"], each["why"]) for each in listed] == [
        *((f"v2/s{shard}/{at}.png", f"v1/s{shard}/{at}.png", "bytes") for shard in range(2) for at in range(2)),
        ("v2/s2/1.png", "v2/s2/0.png", "bytes"),
    ]
    assert summary.num_left_out == 5
    kept = [row["key"] for row in rows_of(new, IMAGES)]
    assert kept == [*(f"v1/s{shard}/{at}.png" for shard in range(3) for at in range(2)), "v2/s2/0.png"]
    # The shards of copies alone are gone; ids of masks and texts are those of the images that stay.
    assert [each.num_shards for each in require_header(new).combined] == [3, 1]
    ids = {image_id(key) for key in kept}
    for table in (MASKS, EXPRESSIONS):
        assert {row["image_id"] for row in rows_of(new, table)} == ids
    assert "5 images (copies of pictures" in new.read_bytes("DATACARD.md").decode()
    refilter(new, refiltered := place("refiltered"), RuleChange(tau=1.05))
    assert refiltered.read_bytes(LEFT_OUT_NAME) == new.read_bytes(LEFT_OUT_NAME)
    assert verify_run(refiltered).is_clean


def picture(seed: int, noise: int = 0) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = pixels + np.random.default_rng(99).integers(-noise, noise + 1, pixels.shape)
    return encode(np.clip(pixels, 0, 255).astype(np.uint8))


def test_near_copies_are_left_out_too_and_flat_pictures_are_no_copies(place):
    flat = [encode(np.full((64, 64, 3), grey, np.uint8)) for grey in (90, 91)]
    data = [picture(1), picture(2), picture(1, 4), flat[0], picture(1), flat[1]]
    entries = make_entries(3, 2)
    pictures = {entry.key: each for entry, each in zip(entries, data, strict=True)}
    header = start_run(run := place("run"), entries, created_utc="2026-01-01")

    def image_of(entry):
        return replace(empty(entry), data=pictures[entry.key], sha256=sha256_hex(pictures[entry.key]))

    commit_images(run, header, image_of, embed_images=True)
    finish(run)
    new = place("new")
    assert combine([("n", run)], new, unique="similar").num_left_out == 2
    listed = pq.read_table(new.uri(LEFT_OUT_NAME)).to_pylist()
    assert [(each["key"], each["copy_of"], each["why"]) for each in listed] == [
        ("n/s1/0.png", "n/s0/0.png", "similar"),
        ("n/s2/0.png", "n/s0/0.png", "bytes"),
    ]
    assert (listed[0]["distance"] <= 6, listed[1]["distance"]) == (True, None)
    assert verify_run(new).is_clean
    Path(new.uri(receipt_path(1, 0))).unlink()
    assert combine([("n", run)], new, unique="similar").notes == ()
    assert combine([("n", run)], place("bytes"), unique="bytes").num_left_out == 1


def test_hashes_within_six_bits_are_found_as_by_comparing_all():
    draw = random.Random(8)
    held = [draw.getrandbits(64) for _ in range(300)]

    def changed(bits: int, distance: int) -> int:
        return bits ^ sum(1 << bit for bit in draw.sample(range(64), distance))

    asked = [(distance, changed(bits, distance)) for distance in range(10) for bits in held[:40]]
    near = NearHashes([*held, *(bits for _, bits in asked)])
    for distance, bits in asked:
        due = {other for other in held if (bits ^ other).bit_count() <= 6}
        assert {near.values[at] for at in near.near(bits)}.intersection(held) == due, distance


def test_hashes_of_a_fixed_camera_are_compared_without_holding_their_pairs():
    draw, first = random.Random(1), random.Random(2).getrandbits(64)
    near = [first ^ sum(1 << bit for bit in draw.sample(range(64), draw.randint(0, 4))) for _ in range(2000)]
    images = [
        Picture(f"{n}", 0, 0, f"{n}", sha256_hex(bytes([n % 251, n // 251])), f"{bits:016x}", False, f"{n}")
        for n, bits in enumerate(near)
    ]
    began_s, found, kept = time.process_time(), LeftOutImages(), dict[int, str]()
    found.add_copies(images, is_similar=True)
    (splits,) = split_images(images, HoldOut.of({"val": 0.5}, "similar"), LeftOutImages()).values()
    # All pairs, met in each of many sorts and held, took 24 s; this takes 0.3 s.
    assert time.process_time() - began_s < 8
    due = []
    for image, bits in zip(images, near, strict=True):
        if alike := [((bits ^ each).bit_count(), each) for each in kept if (bits ^ each).bit_count() <= 6]:
            due.append((image.key, kept[min(alike)[1]], min(alike)[0]))
        else:
            kept[bits] = image.key
    assert [(each.key, each.copy_of, each.distance) for each in found.rows] == due
    assert len(set(splits.values())) == 1


def test_copies_within_one_run_go_and_its_other_keys_stay(copies, place):
    combine([("", copies[1][1])], new := place("new"), unique="bytes")
    assert [row["key"] for row in rows_of(new, IMAGES)] == ["s0/0.png", "s0/1.png", "s1/0.png", "s1/1.png", "s2/0.png"]
    assert verify_run(new).is_clean


def test_a_lost_list_of_copies_is_told_and_comes_back(copies, place):
    combine(copies, new := place("new"), unique="bytes")
    due = new.read_bytes(LEFT_OUT_NAME)
    new.replace(LEFT_OUT_NAME, due + b"?")
    (problem,) = verify_run(new).problems
    assert (problem.what, "--repair" in problem.detail) == ("left_out", True)
    told = list[str]()
    combine(copies, new, unique="bytes", is_repair=True, on_wait=told.append)
    assert told[0] == "_left_out.parquet was missing or damaged: it is written again"
    assert new.read_bytes(LEFT_OUT_NAME) == due
    Path(new.uri(receipt_path(3, 0))).unlink()
    combine(copies, new, unique="bytes")
    assert verify_run(new).is_clean
    with pytest.raises(ConfigError, match="another identity"):
        combine(copies, new)


def test_composing_anew_needs_runs_that_are_alike(two, place):
    forge_header(two[1][1], lambda tree: tree["identity"]["weights"].update(caption="d" * 64))
    finish(two[1][1])
    combine(two, both := place("both"))
    with pytest.raises(ConfigError, match=r"composing anew.* needs runs of equal models, preset and posterior"):
        refilter(
            both, place("new"), RuleChange(composing=["composing={}"]), composer_of=lambda config: lambda each: each
        )


def test_cut_masks_are_not_composed_anew_after_copies_went(place):
    def cut(entry):
        image = of_bytes(b"same")(entry)
        masks = tuple(replace(mask, is_cut=True) for mask in image.masks)
        # Receipts lose this count where images of the shard are left out.
        return replace(image, masks=masks, masks_left=MasksLeft(proposed=2, cut_edges=0))

    combine([("", run_of(place("run"), cut, cut))], unique := place("unique"), unique="bytes")
    with pytest.raises(ConfigError, match=r"has masks that edges of tiles cut"):
        refilter(
            unique, place("new"), RuleChange(composing=["composing={}"]), composer_of=lambda config: lambda each: each
        )


def run_of(location: RunLocation, *images, embed_images: bool = True, **changes) -> RunLocation:
    """Write a run of one shard of these images, functions of a plan entry."""
    # Files have any size and time.
    entries = [type(each)(*vars_of(each)[:4]) for each in make_entries(1, len(images))]
    header = start_run(location, entries, **{"created_utc": location.root, **changes})
    commit_images(location, header, lambda entry: images[entry.position](entry), embed_images=embed_images)
    finish(location)
    return location


def of_bytes(data: bytes, image_of=annotated):
    """Return a function that makes an image of these bytes."""
    return lambda entry: replace(image_of(entry), data=data, sha256=sha256_hex(data))


def test_a_quarantined_picture_keeps_no_copy_of_it_out(place):
    data, other = picture(1), picture(2)
    first = run_of(place("v1"), of_bytes(data, quarantined), of_bytes(other))
    second = run_of(place("v2"), of_bytes(data), of_bytes(data), of_bytes(other, quarantined))
    summary = combine([("v1", first), ("v2", second)], new := place("new"), unique="similar")
    assert [(each["key"], each["copy_of"]) for each in left_out_of(new)] == [
        ("v2/s0/1.png", "v2/s0/0.png"),
        ("v2/s0/2.png", "v1/s0/1.png"),
    ]
    assert (summary.totals.quarantined, summary.notes) == (1, ())


def left_out_of(location: RunLocation) -> list[dict]:
    return pq.read_table(location.uri(LEFT_OUT_NAME)).to_pylist()


def test_what_a_receipt_counts_by_name_goes_with_images_that_are_left_out(place):
    def told(data: bytes):
        return lambda entry: replace(of_bytes(data, empty)(entry), masks_left=MasksLeft(proposed=3, min_area=0))

    run = run_of(place("run"), told(b"a"), told(b"b"), told(b"a"))
    combine([("", run)], whole := place("whole"))
    assert next(latest_receipts(whole)).emptied == {"min_area": 3}
    combine([("", run)], new := place("new"), unique="bytes")
    (receipt,) = latest_receipts(new)
    assert (receipt.counts.images, receipt.masks_left, receipt.emptied, receipt.notes) == (2, {}, {}, {})


NEAR = {"v1": picture(1), "v2": picture(1, 4)}


def hashed(data: bytes):
    """Return a function that makes an image of these bytes whose hash stands in the table."""
    phash = perceptual_hash(decode_upright(data, ImagesConfig()))
    return lambda entry: replace(of_bytes(data)(entry), phash=phash)


def test_near_copies_of_runs_with_hashes_are_found_without_reading_a_picture(place):
    runs = [(name, run_of(place(name), hashed(data), embed_images=False)) for name, data in NEAR.items()]
    summary = combine(runs, new := place("new"), unique="similar")
    assert (summary.num_left_out, summary.notes) == (1, ())
    assert [row["phash"] for row in rows_of(new, IMAGES)] == [row["phash"] for row in rows_of(runs[0][1], IMAGES)]


def test_copies_in_a_run_are_counted_or_said_to_be_unknown(place, monkeypatch):
    data = [picture(1), picture(2), picture(1, 4), picture(1)]
    run = run_of(place("run"), *map(hashed, data), quarantined)
    found = count_copies(OpenRun.at(run))
    assert (found, str(found)) == (CopyCounts(4, 1, 1, 0), "1 byte for byte, 1 near copy")
    assert combine([("", run)], same := place("same")).copies == found
    assert "| copies among the images | 1 byte for byte, 1 near copy |" in same.read_bytes("DATACARD.md").decode()
    assert combine([("", run)], place("unique"), unique="similar").copies == CopyCounts(2, 0, 0, 0)
    half = run_of(place("half"), hashed(data[0]), *map(of_bytes, data[1:]))
    found = count_copies(OpenRun.at(half))
    assert str(found) == "1 byte for byte, 0 near copies; near copies unknown of 2 without a perceptual hash"
    none = count_copies(OpenRun.at(run_of(place("none"), *map(of_bytes, data))))
    assert (none.num_near, str(none)) == (None, "1 byte for byte, near copies unknown of 3 without a perceptual hash")


def test_a_hash_that_no_run_writes_is_named(place):
    run = run_of(place("run"), lambda entry: replace(of_bytes(picture(1))(entry), phash="no hash"))
    with pytest.raises(ConfigError, match=r"a row of shard 0 of .* has the phash 'no hash', which no run writes"):
        count_copies(OpenRun.at(run))


def test_near_copies_are_found_where_images_were_moved_to_or_else_unknown(tmp_path, place):
    runs, data = [], {"v1": picture(1), "v2": picture(1, 4)}
    for name, each in data.items():
        (images := tmp_path / f"images {name}" / "s0").mkdir(parents=True)
        (images / "0.png").write_bytes(each)
        runs.append((name, run_of(place(name), of_bytes(each), embed_images=False, source=str(images.parent))))
    shutil.move(tmp_path / "images v2", tmp_path / "elsewhere")
    summary = combine(runs, place("unknown"), unique="similar")
    assert (summary.num_left_out, [note.partition(":")[0] for note in summary.notes]) == (
        0,
        ["near copies unknown of 1 that cannot be read where the runs found them"],
    )
    moved = {"v2": str(tmp_path / "elsewhere")}
    assert combine(runs, place("new"), unique="similar", moved=moved).num_left_out == 1
    combine(runs, inner := place("inner"))
    moved = {"x/v2": str(tmp_path / "elsewhere")}
    assert combine([("x", inner)], place("nested"), unique="similar", moved=moved).num_left_out == 1
    for wrong, said in (({"v3": "p"}, "no images 'v3' to be moved: the runs have the names v1, v2"), ("p", "no name")):
        with pytest.raises(ConfigError, match=said):
            combine(runs, place("other"), moved=wrong)


def test_the_list_of_a_parent_stands_before_what_is_left_out_now(copies, place):
    combine(copies, inner := place("inner"), unique="bytes")
    held = left_out_of(inner)
    carried = [
        {**row, "key": f"x/{row['key']}", "copy_of": f"x/{row['copy_of']}", "run": 0, "shard": None} for row in held
    ]
    combine([("x", inner)], new := place("new"))
    assert left_out_of(new) == carried
    combine([("x", inner), copies[0]], both := place("both"), unique="bytes")
    assert left_out_of(both)[:5] == carried
    assert {row["key"].partition("/")[0] for row in left_out_of(both)[5:]} == {"v1"}
    for run in (new, both):
        assert verify_run(run).is_clean
    due = both.read_bytes(LEFT_OUT_NAME)
    Path(both.uri(receipt_path(0, 0))).unlink()
    combine([("x", inner), copies[0]], both, unique="bytes")
    Path(both.uri(LEFT_OUT_NAME)).unlink()
    combine([("x", inner), copies[0]], both, unique="bytes")
    assert both.read_bytes(LEFT_OUT_NAME) == due
    assert verify_run(both).is_clean


def test_a_list_of_copies_that_can_no_longer_be_made_is_never_written(tmp_path, place):
    (folder := tmp_path / "images" / "s0").mkdir(parents=True)
    data = [picture(1), picture(1, 4)]
    for number, each in enumerate(data):
        (folder / f"{number}.png").write_bytes(each)
    run = run_of(place("run"), *map(of_bytes, data), embed_images=False, source=str(folder.parent))
    combine([("", run)], new := place("new"), unique="similar")
    due = new.read_bytes(LEFT_OUT_NAME)
    shutil.move(folder, tmp_path / "gone")
    for damaged in (due + b"?", None):
        new.replace(LEFT_OUT_NAME, damaged) if damaged else Path(new.uri(LEFT_OUT_NAME)).unlink()
        with pytest.raises(ConfigError, match=r"pictures cannot be read as before, .*: put them back, or restore"):
            combine([("", run)], new, unique="similar", is_repair=True)
        assert new.read_if_there(LEFT_OUT_NAME) == damaged
    shutil.move(tmp_path / "gone", folder)
    combine([("", run)], new, unique="similar")
    assert new.read_bytes(LEFT_OUT_NAME) == due


def test_a_refilter_has_its_list_of_copies_again_by_its_own_command(copies, place):
    combine(copies, both := place("both"), unique="bytes")
    refilter(both, new := place("new"), change := RuleChange(tau=1.05))
    new.replace(LEFT_OUT_NAME, b"?")
    (problem,) = verify_run(new).problems
    assert "run the `pseudoris refilter` command again with --repair" in problem.detail
    refilter(both, new, change, is_repair=True)
    assert new.read_bytes(LEFT_OUT_NAME) == both.read_bytes(LEFT_OUT_NAME)


def test_another_way_to_leave_out_takes_no_list_of_a_run_that_gave_way(copies, place):
    combine(copies, new := place("new"), unique="bytes")
    for path in [*parts(new, "_receipts"), *(f"_manifest/{each.name}" for each in new.list("_manifest"))]:
        new.delete(path)
    combine(copies, new)
    assert require_header(new).left_out is None
    assert verify_run(new).is_clean


def test_every_rule_of_runs_of_one_name_is_told(place):
    runs = []
    for number, tau in enumerate(("1.0", "1.2")):
        entries = [replace(each, shard=0) for each in make_entries(number + 1, 2)[2 * number :]]
        header = start_run(run := place(f"v{number}"), entries, f"filtering.tau={tau}", created_utc=f"2026 {number}")
        commit_images(run, header, annotated)
        finish(run)
        runs.append(("same", run))
    clauses = combine(runs, both := place("both")).clauses
    bounds = [("same", "distinctiveness > 1"), ("same", "distinctiveness > 1.2")]
    assert [(each.run, each.condition) for each in clauses if each.kinds == (ONE_OF_SEVERAL,)] == bounds
    summary = refilter(both, place("new"), RuleChange(keep=[KeepCondition.model_validate("correctness > 0.4")]))
    kept = [each.condition for each in summary.clauses if each.kinds == (ONE_OF_SEVERAL,)]
    assert kept == [f"{bound} and correctness > 0.4" for _, bound in bounds]
    assert read_summary(OpenRun.at(both)).clauses == clauses
