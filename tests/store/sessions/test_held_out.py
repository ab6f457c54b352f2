"""No split of a combined run has a copy, a tile or a near copy of what another split has."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import KeepCondition
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, SPLITS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.scored_runs import finish
from tests.store.builders import annotated, commit_images, killed_at_write, make_entries, parts, start_run

HALF = HoldOut.of({"val": 0.5})
# By these digests `HALF` draws one split or the other.
DRAWN = {HALF.drawn(each): each for each in (sha256_hex(bytes([n])) for n in range(20))}


@pytest.fixture
def place(tmp_path):
    return lambda name: RunLocation.open(str(tmp_path / name))


@pytest.fixture
def run(place):
    """Return what writes a run of one image a key, each with the fields that are given."""

    def write(name: str, images: dict[str, dict], per_shard: int = 3) -> tuple[str, RunLocation]:
        slots = make_entries(-(-len(images) // per_shard), per_shard)[: len(images)]
        entries = [
            replace(entry, key=key, image_id=PlanEntry(0, 0, sha256_hex(key.encode())[:16], key).image_id)
            for entry, key in zip(slots, images, strict=True)
        ]
        header = start_run(location := place(name), entries, created_utc=f"2026-01-01 {name}")

        def image_of(entry: PlanEntry) -> ShardImage:
            fields = images[entry.key]
            image = replace(annotated(entry), **{name: each for name, each in fields.items() if name != "said"})
            said = tuple(replace(each, split=fields.get("said")) for each in image.expressions)
            return replace(image, expressions=said)

        commit_images(location, header, image_of)
        finish(location)
        return name, location

    return write


def of(location: RunLocation) -> dict[str, str | None]:
    """Return the split of each image by its key; all texts of the image have it."""
    rows = OpenRun.at(location).table(IMAGES, ("image_id", "key", "split")).to_pylist()
    texts = OpenRun.at(location).table(EXPRESSIONS, ("image_id", "split")).to_pylist()
    by_id = {row["image_id"]: row["split"] for row in rows}
    assert all(row["split"] == by_id[row["image_id"]] for row in texts)
    return {row["key"]: row["split"] for row in rows}


def listed(location: RunLocation) -> list[tuple]:
    rows = pq.read_table(location.uri(LEFT_OUT_NAME)).to_pylist()
    return [(row["key"], row["copy_of"], row["why"]) for row in rows]


def many(num: int, name: str = "") -> dict[str, dict]:
    return {f"{name}{n}.png": {"sha256": sha256_hex(f"{name}{n}".encode())} for n in range(num)}


def test_shares_are_drawn_and_stay_when_other_runs_and_images_come(run, place):
    one = run("one", many(200), per_shard=50)
    summary = combine([("", one[1])], first := place("first"), hold_out=HoldOut.of({"val": 0.2, "test": 0.1}))
    assert verify_run(first).is_clean
    drawn = of(first)
    assert summary.splits == Counter(drawn.values()) == require_header(first).splits.images
    assert abs(summary.splits["val"] - 40) < 20
    assert abs(summary.splits["test"] - 20) < 14
    # The same pictures among others, in another order, and with a further share.
    more = run("more", {**many(10, "x"), **many(210)}, per_shard=50)
    other = run("other", many(9, "y"))
    shares = HoldOut.of({"testB": 0.3, "val": 0.2, "test": 0.1})
    combine([other, more], both := place("both"), hold_out=shares)
    later = {key.removeprefix("more/"): split for key, split in of(both).items()}
    assert all(later[key] == split or (split, later[key]) == ("train", "testB") for key, split in drawn.items())


def test_copies_and_tiles_of_a_picture_are_in_one_split(run, place):
    digests = [sha256_hex(bytes([n])) for n in range(40)]
    tiles = {
        f"p{n}@{at}": {"picture": f"p{n}", "picture_sha256": digests[n], "sha256": sha256_hex(bytes([n, at]))}
        for n in range(20)
        for at in range(3)
    }
    whole = {f"{n}.png": {"sha256": digest} for n, digest in enumerate(digests)}
    combine([run("a", tiles, per_shard=20), run("b", whole, per_shard=20)], new := place("new"), hold_out=HALF)
    found = of(new)
    assert {found[f"b/{n}.png"] for n in range(20)} == {"train", "val"}
    for n in range(20):
        assert {found[f"a/p{n}@{at}"] for at in range(3)} == {found[f"b/{n}.png"]}


@pytest.mark.parametrize("group", ["folder", "similar", ".csv", ".parquet"])
def test_what_is_grouped_is_drawn_as_one(run, place, group, tmp_path):
    images = {
        f"{n // 5}/{n}.png": {**fields, "phash": f"{random.Random(n // 5).getrandbits(60) << 4 | n % 5:016x}"}
        for n, fields in enumerate(many(50).values())
    }
    source = run("one", images, per_shard=25)
    if group.startswith("."):
        table = pa.table({"key": list(images), "group": [key.partition("/")[0] for key in images]})
        path = tmp_path / f"groups{group}"
        if group == ".csv":
            path.write_text("key,group\n" + "".join(f"{key},{key.partition('/')[0]}\n" for key in images))
        else:
            pq.write_table(table, path)
        group = str(path)
    combine([("", source[1])], new := place("new"), hold_out=HoldOut.of({"val": 0.5}, group))
    found = of(new)
    assert set(found.values()) == {"train", "val"}
    for number in range(10):
        assert len({split for key, split in found.items() if key.startswith(f"{number}/")}) == 1
    # The first picture of a group decides.
    assert all(found[f"{n}/{5 * n}.png"] == HALF.drawn(images[f"{n}/{5 * n}.png"]["sha256"]) for n in range(10))


@pytest.mark.parametrize("group", ["folder", ".csv"])
def test_pictures_that_were_cut_and_copied_beside_them_are_grouped_by_their_own_names(run, place, group, tmp_path):
    tar = "tiles-000000-60423227.tar!"
    images = {f"{tar}{n}/long.png@0": {"picture": f"{n}/long.png"} for n in range(10)}
    images |= {f"{tar}{n}/fits.png": {} for n in range(10)}
    # Of another tar, and of members, which lie below their tar where they are copied.
    images |= {f"{tar.replace('000000', '000001')}{n}/x.tar/fits.png": {} for n in range(10)}
    images |= {f"{tar}{n}/x.tar!long.png@0": {"picture": f"{n}/x.tar!long.png"} for n in range(10)}
    for fields, digest in zip(images.values(), many(40).values(), strict=True):
        fields.update(digest)
    if group == ".csv":
        keys = {f"{n}/{name}": n for n in range(10) for name in ("long.png", "fits.png", "x.tar/fits.png")}
        keys |= {f"{n}/x.tar!long.png": n for n in range(10)}
        (tmp_path / "groups.csv").write_text("key,group\n" + "".join(f"{key},{n}\n" for key, n in keys.items()))
        group = str(tmp_path / "groups.csv")
    combine([("", run("one", images, per_shard=20)[1])], new := place("new"), hold_out=HoldOut.of({"val": 0.5}, group))
    found = of(new)
    assert set(found.values()) == {"train", "val"}
    for n in range(10):
        own = {key: split for key, split in found.items() if f"!{n}/" in key}
        in_tar, beside = ({split for key, split in own.items() if ("x.tar" in key) is side} for side in (True, False))
        assert len(in_tar) == len(beside) == 1
        assert group == "folder" or in_tar == beside


def test_a_file_of_groups_takes_names_as_they_are_and_what_names_no_image_is_told(run, place, tmp_path):
    images = {f"im%20{n}.png": fields for n, fields in enumerate(many(12).values())}
    # The first half is named as files are, the other as keys are.
    named = [f"im {n}.png" if n < 6 else f"im%20{n}.png" for n in range(12)]
    (tmp_path / "groups.csv").write_text("key,group\n" + "".join(f"{name},g\n" for name in [*named, "gone.png"]))
    drawn = HoldOut.of({"val": 0.5}, str(tmp_path / "groups.csv"))
    summary = combine([("", run("one", images)[1])], new := place("new"), hold_out=drawn)
    assert len(set(of(new).values())) == 1
    assert summary.notes == ("--group: 1 of its keys name no image, such as 'gone.png'",)


def test_a_group_keeps_its_draw_where_it_comes_first_or_was_drawn_before(run, place):
    phash = {"phash": f"{0xF0F1 << 20:016x}"}
    one = run("one", {"a.png": {"sha256": DRAWN["val"], **phash}})
    other = run("other", {"b.png": {"sha256": DRAWN["train"], **phash}})
    drawn = HoldOut.of({"val": 0.5}, "similar")

    def splits(name, *runs):
        combine(runs, new := place(name), hold_out=drawn)
        return set(of(new).values())

    assert splits("first", one) == splits("last", one, other) == {"val"}
    assert splits("before", other, one) == {"train"}
    assert splits("kept", other, ("first", place("first"))) == {"val"}


def test_the_split_that_a_picture_has_wins_for_its_copies_and_its_group(run, place):
    val, train = DRAWN["val"], DRAWN["train"]
    # A folder holds pictures of two splits: they stay there, and what has none is in neither.
    said = {"a.png": {"sha256": train, "said": "testA"}, "b.png": {"sha256": val, "said": "train"}, "new.png": {}}
    imported = run("human", said)
    mine = run("mine", {"f/a.png": {"sha256": train}, "f/c.png": {"sha256": val[::-1]}, "b.png": {"sha256": val}})
    combine([mine, imported], new := place("new"), hold_out=HoldOut.of({"val": 0.5}, "folder"))
    found = of(new)
    assert (found["human/a.png"], found["mine/f/a.png"], found["mine/f/c.png"]) == ("testA", "testA", "testA")
    assert (found["human/b.png"], found["mine/b.png"]) == ("train", "train")
    assert listed(new) == [("human/new.png", "human/a.png", "split")]
    assert verify_run(new).is_clean


def test_a_picture_alike_to_two_splits_is_left_out_and_listed(run, place):
    images = {
        "bridge.png": {"phash": f"{0b000111000 << 20:016x}"},
        "a.png": {"split": "train", "phash": f"{1 << 50:016x}", "sha256": sha256_hex(b"a")},
        "b.png": {"split": "val", "phash": f"{0b111111000 << 20:016x}"},
        "copy.png": {"split": "test", "sha256": sha256_hex(b"a")},
    }
    source = run("one", images, per_shard=2)
    summary = combine([("", source[1])], new := place("new"), hold_out=HoldOut.of({"val": 0.5}, "similar"))
    assert listed(new) == [("copy.png", "a.png", "split"), ("bridge.png", "a.png", "split")]
    assert of(new) == {"a.png": "train", "b.png": "val"}
    assert (summary.num_left_out, summary.splits) == (2, {"train": 1, "val": 1})
    assert verify_run(new).is_clean


def test_runs_with_splits_keep_them_when_they_are_combined_refiltered_and_made_one_of_one(run, place):
    one, two = run("one", many(30), per_shard=10), run("two", {**many(30), **many(10, "new")}, per_shard=10)
    combine([("", one[1])], split := place("split"), hold_out=HALF)
    drawn = of(split)
    # Copies in a run without splits have the split of theirs; what is new is in none.
    summary = combine([("split", split), two], both := place("both"))
    found = of(both)
    assert all(found[f"split/{key}"] == found[f"two/{key}"] == each for key, each in drawn.items())
    assert {each for key, each in found.items() if "new" in key} == {None}
    assert summary.splits[""] == 10
    combine([("", split)], again := place("again"))
    assert parts(again) == parts(split)
    assert require_header(again).splits == require_header(split).splits
    refilter(both, judged := place("judged"), RuleChange(keep=[KeepCondition.model_validate("count >= 1")]))
    assert of(judged) == found
    assert require_header(judged).splits == require_header(both).splits
    assert verify_run(judged).is_clean


def test_copies_that_are_left_out_give_their_split_to_what_stays(run, place):
    first = run("first", {"a.png": {"sha256": DRAWN["train"]}})
    second = run("second", {"a.png": {"sha256": DRAWN["train"], "split": "val"}})
    combine([first, second], new := place("new"), hold_out=HALF, unique="bytes")
    assert of(new) == {"first/a.png": "val"}
    assert listed(new) == [("second/a.png", "first/a.png", "bytes")]


def test_a_killed_call_goes_on_with_the_same_splits(run, place, monkeypatch):
    source = run("one", many(40), per_shard=8)
    combine([source], whole := place("whole"), hold_out=HALF)
    for number in (3, 6, 8):
        new = place(f"new{number}")
        with killed_at_write(number, monkeypatch) as was_killed, pytest.raises(BaseException):  # noqa: B017, PT011
            combine([source], new, hold_out=HALF, num_threads=1)
        assert was_killed()
        combine([source], new, hold_out=HALF)
        assert parts(new) == parts(whole)
        assert require_header(new).splits == require_header(whole).splits


def test_pictures_without_bytes_have_no_split_and_other_shares_are_another_run(run, place):
    source = run("one", {"a.png": {"sha256": None}, "b.png": {}})
    combine([source], new := place("new"), hold_out=HALF)
    assert of(new)["one/a.png"] is None
    with pytest.raises(ConfigError, match="hold_out"):
        combine([source], new, hold_out=HoldOut.of({"val": 0.4}))


@pytest.mark.parametrize(
    ("texts", "group", "said"),
    [
        (
            ["val=0.7", "test=0.4"],
            None,
            r"shares of --hold-out, val=0.7, test=0.4, are 1.1 together: they may be 1",
        ),
        (["train=0.5", "test=0.4"], None, "are 0.9 together: with train they must be 1"),
        (["dev=0.1"], None, "there is no split 'dev': give train, val, test, testA, testB"),
        (["val=1.5"], None, "--hold-out val=1.5: give a share from 0 to 1"),
        (["val=many"], None, "'val=many' is no SPLIT=SHARE"),
        (["val=nan"], None, "give a share from 0 to 1"),
        (["val=0.1", "val=0.2"], None, "names val twice"),
        (["val=0.1"], "missing.csv", "--group missing.csv is neither folder nor similar, nor a file"),
        ([], "folder", "name a share"),
    ],
)
def test_mistakes_are_told_in_a_sentence(texts, group, said):
    with pytest.raises(ConfigError, match=said):
        HoldOut.parse(texts, group)


def test_a_file_of_groups_that_says_nothing_of_the_images_is_refused(run, place, tmp_path):
    (tmp_path / "groups.csv").write_text("key,group\nother.png,1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no key of an image: give keys of the new run, such as \['one/0.png'\]"):
        combine([run("one", many(3))], place("new"), hold_out=HoldOut.of({"val": 0.5}, tmp_path / "groups.csv"))
    (tmp_path / "groups.csv").write_text("name\nother.png\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no columns key and group"):
        HoldOut.of({"val": 0.5}, tmp_path / "groups.csv")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.png,1\nb.png,1\na.png,2\n", r"groups.csv has 'a.png' in '1' and in '2': give each key one group"),
        ("", r"groups.csv has no row of a key and a group: write them, or leave --group out"),
        ("a.png,\n", r"groups.csv has no row of a key and a group"),
    ],
)
def test_a_file_of_groups_that_says_two_things_of_a_key_or_nothing_is_refused(rows, said, tmp_path):
    (tmp_path / "groups.csv").write_text(f"key,group\n{rows}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"--group .*{said}"):
        HoldOut.parse(["val=0.5"], str(tmp_path / "groups.csv"))


def test_shares_with_train_are_those_of_the_others():
    drawn = Counter(HoldOut.of({"train": 0.7, "testA": 0.3}).drawn(sha256_hex(bytes([n, n]))) for n in range(250))
    assert set(drawn) == {"train", "testA"}
    assert abs(drawn["testA"] - 75) < 30
    assert set(SPLITS) > set(drawn)


def test_an_empty_cell_of_a_csv_is_no_group(tmp_path):
    (tmp_path / "groups.csv").write_text("key,group\na.png,\nb.png,1\nb.png,1\n", encoding="utf-8")
    assert HoldOut.of({"val": 0.5}, tmp_path / "groups.csv").groups == {"b.png": "1"}
