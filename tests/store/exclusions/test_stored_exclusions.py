"""A run's exclusions: frozen with its plan, counted, kept by every later session, and refused where they differ."""

from __future__ import annotations

import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.exclusions.exclusion_rules import Exclusions, exclusion, exclusions_of
from pseudoris.store.exclusions.stored_exclusions import content_matcher, stored_exclusions
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.data_card import write_datacard
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.plan import iter_plan
from pseudoris.store.runs.planned_run import PlannedRun, RunRequest, plan_run
from pseudoris.store.sources import SourceItem
from tests.store.builders import make_identity

CONFIG = load_config("tiny", None, ["shards.max_images=2"])
NAMES = exclusion("names", "held-out.txt", ["1.png", "3.png", "not-there.png"], files={"held-out.txt": "ab" * 32})
DIGESTS = exclusion("sha256", "bench.parquet", ["cd" * 32])
ONLY = exclusion("only", "train.txt", ["1.png", "2.png", "5.png", "not-there.png", "nor-this.png"])


def planned(location: RunLocation, exclusions: Exclusions = (), count: int = 6, **changes) -> PlannedRun:
    request = RunRequest("import", "/photos", make_identity(), CONFIG, exclusions=exclusions, **changes)
    return plan_run(location, request, lambda: items(count))


def plan(location: RunLocation, exclusions: Exclusions, count: int = 6) -> RunHeader:
    return planned(location, exclusions, count).header


def items(count: int) -> list[SourceItem]:
    return [SourceItem(key=f"{number}.png", size_bytes=1) for number in range(count)]


def planned_keys(location: RunLocation) -> list[str]:
    return [entry.key for _, entries in iter_plan(location, require_header(location)) for entry in entries]


def counts(location: RunLocation) -> list[int | None]:
    return [rule.num_excluded for rule in exclusions_of(require_header(location)).rules]


def test_images_excluded_by_name_are_not_planned_and_the_header_counts_them(disk):
    header = plan(disk, NAMES + DIGESTS)
    assert planned_keys(disk) == ["0.png", "2.png", "4.png", "5.png"]
    assert (header.num_images, header.num_shards) == (4, 2)
    assert counts(disk) == [2, None]
    assert require_header(disk) == header
    (rule, _) = exclusions_of(header).rules
    assert (rule.kind, rule.name, rule.num_values, rule.files) == (
        "names",
        "held-out.txt",
        3,
        {"held-out.txt": "ab" * 32},
    )


def test_a_repeated_image_is_excluded_once_and_a_limit_counts_what_is_planned(disk):
    listing = [each for item in items(4) for each in (item, item)]
    request = RunRequest("import", "/photos", make_identity(), CONFIG, exclusions=NAMES, limit=2)
    header = plan_run(disk, request, lambda: listing).header
    assert planned_keys(disk) == ["0.png", "2.png"]
    assert header.num_images == 2
    assert counts(disk) == [1]


def test_the_values_stand_beside_the_plan_so_a_later_session_needs_no_file(disk):
    header = plan(disk, NAMES + DIGESTS)
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
    plan(disk, NAMES + DIGESTS)
    with pytest.raises(
        ConfigError, match=r"--exclude bench\.parquet: sha256, 1 values, sha256 [0-9a-f]{16} in the run, absent now"
    ):
        plan(disk, other)


def test_the_same_rules_in_another_order_from_moved_files_are_accepted(disk):
    header = plan(disk, NAMES + DIGESTS)
    moved = exclusion("names", "moved.txt", ["not-there.png", "3.png", "1.png"])
    again = planned(disk, DIGESTS + moved)
    assert (again.header, again.notices) == (header, ())


def test_an_extension_applies_the_runs_rules_and_counts_the_whole_listing(disk):
    plan(disk, NAMES + DIGESTS, count=2)
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
    plan(disk, ONLY, count=2)
    assert exclusions_of(require_header(disk)).rules[0].num_absent == 4
    planned(disk, is_extension=True)
    assert planned_keys(disk) == ["1.png", "2.png", "5.png"]
    assert exclusions_of(require_header(disk)).rules[0].num_absent == 2


def test_a_rule_that_excludes_none_is_warned_of(disk):
    (notice,) = planned(disk, exclusion("names", "other.txt", ["elsewhere.png"])).notices
    assert "other.txt excludes none" in notice


def test_a_damaged_or_missing_list_is_told_and_verify_finds_it(disk):
    header = plan(disk, DIGESTS)
    path = f"_plan/{exclusions_of(header).part.name}"
    disk.replace(path, b"other")
    assert "exclusions" in {problem.what for problem in verify_run(disk).problems}
    disk.delete(path)
    with pytest.raises(ConfigError, match=r"is missing, although _run\.json names it\. Restore the file"):
        stored_exclusions(disk, header)


def test_the_data_card_lists_each_rule_and_its_files(disk):
    plan(disk, NAMES + DIGESTS)
    write_datacard(disk)
    card = disk.read_bytes("DATACARD.md").decode()
    for name, rule in (("held-out.txt", "`names`"), ("bench.parquet", "`sha256`")):
        assert f"| {rule} | `{name}` |" in card.partition("## Excluded images")[2]
    assert f"File `held-out.txt`: sha256 `{'ab' * 32}`." in card
