"""Which images a rule excludes, by name and by content, and which it leaves alone."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from pseudoris.files.key_order import member_key, path_key, row_key
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.exclusion_rules import (
    ExclusionMatcher,
    Exclusions,
    beyond,
    exclusion,
    exclusions_of,
    name_value,
)
from pseudoris.store.reports.data_card import write_datacard
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.plan import iter_plan
from pseudoris.store.runs.planned_run import PlannedRun, RunRequest, may_give_way, plan_run
from pseudoris.store.runs.stored_exclusions import content_matcher, stored_exclusions
from pseudoris.store.sources import SourceItem
from tests.store.builders import make_identity


def names(*entries: str) -> Exclusions:
    return exclusion("names", "list.txt", map(name_value, entries))


def phashes(*hashes: str, distance: int = 2) -> Exclusions:
    return exclusion("phash", "table.csv", hashes, settings={"max_distance": distance})


@pytest.mark.parametrize(
    "key",
    [
        "COCO_train2014_000000000012.jpg",
        "a/b/000000000012.jpg",
        member_key("x.tar", "train/COCO_train2014_000000000012.jpg"),
        "COCO_val2014_000000000012_3.png",
        "COCO_train2014_000000000012_0123456789abcdef.jpg",
        "000000000012.webp",
    ],
)
def test_an_id_matches_every_form_of_cocos_names(key):
    for listed in ("12", "000000000012", "COCO_train2014_000000000012.jpg", "COCO_train2014_000000000012_99.jpg"):
        assert ExclusionMatcher(names(listed)).matched(key)[0] == 0


@pytest.mark.parametrize(
    "key",
    [
        *("COCO_train2014_000000000120.jpg", "COCO_train2014_000000000112.jpg", "12.jpg", "12", "a12.jpg"),
        *("0000000000012.jpg", "photo_000000000012.jpg", "COCO_train2014_12.jpg", "COCO_train2014_000000000012"),
        *("COCO_train2014_000000000012.jpg.txt.bak", row_key("t", 12)),
    ],
)
def test_an_id_matches_nothing_that_merely_contains_it(key):
    assert ExclusionMatcher(names("12")).matched(key)[0] is None


def test_a_listed_name_is_the_files_and_a_listed_path_the_end_of_the_keys():
    matcher = ExclusionMatcher(names("a cat.jpg", "dogs/1.jpg"))
    assert matcher.matched(path_key("any/folder/a cat.jpg"))[0] == 0
    assert matcher.matched(member_key("cats.tar", "val/a cat.jpg"))[0] == 0
    assert matcher.matched("more/dogs/1.jpg")[0] == 0
    # As `find .` prints a path.
    assert ExclusionMatcher(names("./dogs/1.jpg")).matched("dogs/1.jpg")[0] == 0
    for other in ("cats/1.jpg", "1.jpg", "hotdogs/1.jpg", path_key("not a cat.jpg"), "cat.jpg", "a%20cat.jpg/x.png"):
        assert matcher.matched(other)[0] is None


def test_a_file_of_an_export_excludes_the_image_that_it_came_from():
    matcher = ExclusionMatcher(names(f"holiday_{image_id('b/holiday.jpg')}.jpg"))
    assert matcher.matched("b/holiday.jpg")[0] == 0
    assert matcher.matched("c/holiday.jpg")[0] is None


def test_only_excludes_what_it_does_not_name_and_says_which_of_its_values_name_an_image():
    matcher = ExclusionMatcher(exclusion("only", "t", ["12", "a.jpg"]) + names("b/a.jpg"))
    keys = ("a.jpg", "b/a.jpg", "c.jpg", "COCO_train2014_000000000012.jpg")
    assert [matcher.matched(key)[0] for key in keys] == [None, 1, 0, None]
    assert [matcher.matched(key)[1] for key in keys] == [[1], [1], [], [0]]


def test_content_is_matched_by_digest_and_by_distance():
    matcher = ExclusionMatcher(exclusion("sha256", "t", ["ab" * 32]) + phashes("f0" * 8, distance=2))
    assert matcher.has_hashes
    assert matcher.by_content("ab" * 32) == 0
    near, far = f"{0xF0F0F0F0F0F0F0F0 ^ 0b11:016x}", f"{0xF0F0F0F0F0F0F0F0 ^ 0b111:016x}"
    assert matcher.by_content("00" * 32, near) == 1
    assert matcher.by_content("00" * 32, far) is None
    with pytest.raises(ImageError, match=r"excluded by table\.csv: its perceptual hash is within 2 bits") as caught:
        matcher.check("00" * 32, near)
    assert caught.value.reason == "excluded"


def test_a_rule_is_the_same_by_its_values_whatever_its_file_is_called():
    first = exclusion("names", "a.txt", ["x.jpg", "y.jpg"], files={"a.txt": "00" * 32})
    second = exclusion("names", "b.txt", ["y.jpg", "x.jpg"])
    assert first[0].identity == second[0].identity
    assert not beyond(first, second)
    assert beyond(first + names("z.jpg") + second, ()) == first + names("z.jpg")
    assert beyond(phashes("00" * 8, distance=2), phashes("00" * 8, distance=3))
    assert pickle.loads(pickle.dumps(first)) == first
    assert "values" not in first[0].model_dump()


CONFIG = load_config("tiny", None, ["shards.max_images=2"])
NAMES = exclusion("names", "held-out.txt", ["1.png", "3.png", "not-there.png"], files={"held-out.txt": "ab" * 32})
DIGESTS = exclusion("sha256", "bench.parquet", ["cd" * 32])
ONLY = exclusion("only", "train.txt", ["1.png", "2.png", "5.png", "not-there.png", "nor-this.png"])


def planned(
    location: RunLocation, exclusions: Exclusions = (), count: int = 6, times: int = 1, **changes
) -> PlannedRun:
    """Plan `count` images, each listed so many times."""
    listing = [SourceItem(key=f"{number}.png", size_bytes=1) for number in range(count) for _ in range(times)]
    request = RunRequest("import", "/photos", make_identity(), CONFIG, exclusions=exclusions, **changes)
    return plan_run(location, request, lambda: listing)


def planned_keys(location: RunLocation) -> list[str]:
    return [entry.key for _, entries in iter_plan(location, require_header(location)) for entry in entries]


def counts(location: RunLocation) -> list[int | None]:
    return [rule.num_excluded for rule in exclusions_of(require_header(location)).rules]


def test_images_excluded_by_name_are_not_planned_and_the_header_counts_them(disk):
    header = planned(disk, NAMES + DIGESTS).header
    assert planned_keys(disk) == ["0.png", "2.png", "4.png", "5.png"]
    assert (header.num_images, header.num_shards) == (4, 2)
    assert counts(disk) == [2, None]
    assert require_header(disk) == header
    (rule, _) = exclusions_of(header).rules
    assert (rule.kind, rule.name, rule.num_values) == ("names", "held-out.txt", 3)
    assert rule.files == {"held-out.txt": "ab" * 32}


def test_a_repeated_image_is_excluded_once_and_a_limit_counts_what_is_planned(disk):
    header = planned(disk, NAMES, 4, times=2, limit=2).header
    assert planned_keys(disk) == ["0.png", "2.png"]
    assert header.num_images == 2
    assert counts(disk) == [1]


def test_the_values_stand_beside_the_plan_so_a_later_session_needs_no_file(disk):
    header = planned(disk, NAMES + DIGESTS).header
    stored = stored_exclusions(disk, require_header(disk))
    assert [rule.values for rule in stored] == [rule.values for rule in NAMES + DIGESTS]
    assert content_matcher(disk, header).by_content("cd" * 32) == 0
    assert verify_run(disk).problems[0].what == "not_committed"
    again = planned(disk)
    assert again.header == header
    assert again.notices == ("the run keeps to --exclude held-out.txt, --exclude bench.parquet, as it was planned",)


@pytest.mark.parametrize(
    "other",
    [NAMES, NAMES + exclusion("sha256", "bench.parquet", ["ef" * 32]), exclusion("names", "held-out.txt", ["9.png"])],
)
def test_a_session_with_other_exclusions_is_refused_by_name(disk, other):
    planned(disk, NAMES + DIGESTS)
    said = r"--exclude bench\.parquet: sha256, 1 values, sha256 [0-9a-f]{16} in the run, absent now"
    with pytest.raises(ConfigError, match=said):
        planned(disk, other)


def test_the_same_rules_in_another_order_from_moved_files_are_accepted(disk):
    header = planned(disk, NAMES + DIGESTS).header
    moved = exclusion("names", "moved.txt", ["not-there.png", "3.png", "1.png"])
    again = planned(disk, DIGESTS + moved)
    assert (again.header, again.notices) == (header, ())


def test_a_run_without_results_that_excludes_gives_way_only_to_a_request_that_excludes_too(disk):
    header = planned(disk, NAMES).header
    assert [may_give_way(disk, header, each) for each in ((), NAMES)] == [False, True]
    with RunLock.held(disk) as lock:
        other = RunRequest("import", "/other", make_identity(), CONFIG, lock=lock)
        with pytest.raises(ConfigError, match="was planned from SOURCE '/photos'"):
            plan_run(disk, other, list)
        assert require_header(disk) == header
        made = plan_run(disk, replace(other, exclusions=NAMES), lambda: [SourceItem("7.png", 1)])
    assert made.header.source == "/other"


def test_an_extension_applies_the_runs_rules_and_counts_the_whole_listing(disk):
    planned(disk, NAMES + DIGESTS, count=2)
    assert counts(disk) == [1, None]
    extended = planned(disk, is_extension=True)
    assert planned_keys(disk) == ["0.png", "2.png", "4.png", "5.png"]
    assert extended.header == require_header(disk)
    assert counts(disk) == [2, None]
    assert "2 of the listed images are excluded" in extended.notices[2]


def test_only_the_named_images_are_planned_and_names_that_source_lacks_are_counted(disk):
    first, second = planned(disk, ONLY + NAMES).notices
    assert planned_keys(disk) == ["2.png", "5.png"]
    assert counts(disk) == [3, 1]
    assert first == (
        "--only train.txt leaves out 3 listed images that it does not name; 2 of its 5 names are not in SOURCE"
    )
    assert "held-out.txt excludes 1 of the listed images" in second


def test_an_extension_takes_the_named_images_alone_and_counts_the_missing_ones_again(disk):
    planned(disk, ONLY, count=2)
    assert exclusions_of(require_header(disk)).rules[0].num_absent == 4
    planned(disk, is_extension=True)
    assert planned_keys(disk) == ["1.png", "2.png", "5.png"]
    assert exclusions_of(require_header(disk)).rules[0].num_absent == 2


def test_a_rule_that_excludes_none_is_warned_of(disk):
    (notice,) = planned(disk, exclusion("names", "other.txt", ["elsewhere.png"])).notices
    assert "other.txt excludes none" in notice


def test_a_damaged_or_missing_list_is_told_and_verify_finds_it(disk):
    header = planned(disk, DIGESTS).header
    path = f"_plan/{exclusions_of(header).part.name}"
    disk.replace(path, b"other")
    assert "exclusions" in {problem.what for problem in verify_run(disk).problems}
    disk.delete(path)
    with pytest.raises(ConfigError, match=r"is missing, although _run\.json names it\. Restore the file"):
        stored_exclusions(disk, header)


def test_the_data_card_lists_each_rule_and_its_files(disk):
    planned(disk, NAMES + DIGESTS)
    write_datacard(disk)
    card = disk.read_bytes("DATACARD.md").decode()
    for name, rule in (("held-out.txt", "`names`"), ("bench.parquet", "`sha256`")):
        assert f"| {rule} | `{name}` |" in card.partition("## Excluded images")[2]
    assert f"File `held-out.txt`: sha256 `{'ab' * 32}`." in card
