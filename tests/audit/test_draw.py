from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pytest

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw import DrawOptions, draw_audit, make_strata
from pseudoris.audit.draw_files import keeps_no_others, num_unseen
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.keep_rule import KeepRule, parse_conditions
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.run_reader import Run
from tests.builders.scored_runs import scored_run
from tests.builders.sources import GivenImages

OPTIONS = DrawOptions(num_pairs=40, seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("run")))
    return location, scored_run(location, has_humans=True)


def drawn(run, folder, options=OPTIONS):
    location, _ = run
    found = draw_audit(OpenRun.at(location), folder, options, planned=GivenImages(lambda shard, key: b""))
    return found, AuditFolder.open(folder)


def test_a_draw_holds_its_pairs_with_probabilities_that_sum_to_the_run(run, tmp_path):
    found, audit = drawn(run, tmp_path)
    rows = audit.pairs.filter(pc.equal(audit.pairs["role"], "drawn"))
    assert rows.num_rows == sum(stratum.num_drawn for stratum in found.record.strata) == 40
    # Horvitz and Thompson: the drawn stand for all pairs of their stratum, exactly, because it weighs its own equally.
    for stratum in found.record.strata:
        inside = rows.filter(pc.equal(rows["stratum"], stratum.number))["inclusion"].to_numpy()
        assert (1 / inside).sum() == pytest.approx(stratum.num_units)
    assert (rows["first_stage"].to_numpy() * rows["second_stage"].to_numpy()).max() <= 1
    counted = Run(run[0]).counts
    assert found.record.population.pairs == counted.expressions
    assert found.record.population.kept == counted.kept


def test_each_pair_stands_once_with_the_picture_and_the_masks_that_it_needs(run, tmp_path):
    found, audit = drawn(run, tmp_path)
    rows = audit.pairs.to_pylist()
    masks, pictures = audit.masks(), audit.pictures()
    assert len({row["pair_id"] for row in rows}) == len(rows)
    assert all(set(row["mask_ids"]) <= set(masks[row["image_id"]]) for row in rows)
    assert all(pictures[row["image_id"]] for row in rows)
    assert {len(row["mask_ids"]) for row in rows} == {1, 2}
    # Whole masks with their follow-ups: as many kept expressions as the run has.
    known = Run(run[0]).expressions().to_table().to_pylist()
    row = next(row for row in rows if row["role"] == "follow_up")
    of_mask = [each["text"] for each in known if each["target_mask_ids"] == row["mask_ids"] and each["kept"]]
    assert {each["text"] for each in rows if each["mask_ids"] == row["mask_ids"] and each["is_kept"]} == set(of_mask)
    assert row["num_kept_of_mask"] == len(of_mask)
    assert found.num_follow_ups == sum(each["role"] == "follow_up" for each in rows)


def test_the_same_seed_draws_the_same_and_another_another(run, tmp_path):
    first, again, other = (
        drawn(run, tmp_path / name, replace(OPTIONS, seed=seed))[1] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.draw.parts == again.draw.parts
    assert first.draw.parts != other.draw.parts


def test_any_first_part_of_the_order_holds_its_share_of_every_stratum(run, tmp_path):
    _, audit = drawn(run, tmp_path)
    strata = np.array(audit.pairs.filter(pc.equal(audit.pairs["role"], "drawn"))["stratum"].to_pylist())
    counts = np.bincount(strata)
    assert (np.abs(np.bincount(strata[:20], minlength=len(counts)) - counts / 2) <= 1).all()


@pytest.mark.parametrize(("num_absences", "others"), [(900, 40), (60, 30)])
def test_verdicts_on_a_composed_run_are_on_kept_pairs_most_of_them_of_one_mask(num_absences, others):
    kinds = {"position": 300, "relation": 40, "none": num_absences}
    kind = np.repeat([*kinds, "drawn"], [*kinds.values(), 500])
    facts = {"score": np.linspace(0, 1, len(kind)), "kind": kind, "is_lone": np.zeros(len(kind), bool)}
    drawn = make_strata(**facts, is_kept=kind != "drawn", num_drawn=200, unkept_share=None)
    numbers = {
        name: sum(each.num_drawn for each in drawn if f"kept, {name}" in each.name) for name in ("one mask", "none")
    }
    assert sum(each.num_drawn for each in drawn if each.is_kept) == 200
    assert numbers == {"one mask": 200 - others, "none": others}
    # The least sure of one mask are drawn less often.
    rates = [each.num_drawn / len(each.pairs) for each in drawn if "kept, one mask" in each.name]
    assert max(rates[:3]) < 0.4 * min(rates[3:])
    # Where nothing composed is kept, verdicts are spent on what is not kept too.
    plain = make_strata(**facts, is_kept=kind == "drawn", num_drawn=200, unkept_share=None)
    assert sum(each.num_drawn for each in plain if not each.is_kept) == 30


def test_an_audit_is_not_drawn_into_a_folder_of_other_files(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files, such as 'notes.txt'. Name a new folder"):
        drawn(run, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_stopped_draw_left_is_drawn_over(run, tmp_path):
    (tmp_path / "pairs.parquet").write_bytes(b"half")
    (tmp_path / ".tmp-1-0123456789abcdef").write_bytes(b"half")
    drawn(run, tmp_path)
    assert AuditFolder.open(tmp_path).pairs.num_rows


@pytest.mark.parametrize("name", ["pairs.parquet", "images.parquet", "draw.json"])
def test_a_changed_file_of_the_draw_is_refused(run, tmp_path, name):
    drawn(run, tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data.replace(b"0", b"1", 1))
    with pytest.raises(ConfigError, match=f"{name}.* was changed after it was"):
        AuditFolder.open(tmp_path)


DRAWN = "2026-01-01T00:00:00+00:00"


def known(rule, drawn, *, created_utc=DRAWN, parent=None, origin="refilter"):
    above = (SimpleNamespace(created_utc=parent),) if parent else ()
    header = SimpleNamespace(created_utc=created_utc, above=above, origin=origin)
    run = SimpleNamespace(created_utc=DRAWN, rule=None if drawn is None else str(drawn))
    return keeps_no_others(header, rule, run)


def rule(tau, *conditions, lone="keep"):
    return KeepRule(tau, parse_conditions(conditions), lone_masks=lone)


@pytest.mark.parametrize(
    ("changed", "drawn", "expected"),
    [
        (rule(1.4), rule(1.4), True),
        (rule(1.5, "count >= 2"), rule(1.4), True),
        (rule(1.3, "count >= 2"), rule(1.4), False),
        (rule(1.4), rule(1.4, "count >= 2"), False),
        (rule(1.4, "count >= 3", "count < 9"), rule(1.4, "count >= 2", "count < 9"), True),
        (rule(1.4, "log_prob < -2"), rule(1.4, "log_prob < -1"), True),
        (rule(1.4, "log_prob < -1"), rule(1.4, "log_prob < -2"), False),
        (rule(1.4, lone="drop"), rule(1.4), True),
        (rule(1.4), rule(1.4, lone="drop"), False),
        (rule(1.4, lone="drop"), rule(1.4, lone="better_half"), True),
        (rule(None), rule(None), True),
        (rule(1.4), rule(None), False),
        (rule(1.4), None, True),
    ],
    ids=str,
)
def test_a_rule_keeps_no_others_if_each_bound_is_as_strict(changed, drawn, expected):
    assert known(changed, drawn) == expected


def test_only_the_drawn_run_and_its_refilters_have_the_scores_that_a_bound_is_compared_on():
    assert known(rule(1.5), rule(1.4), created_utc="2026-02-02T00:00:00+00:00", parent=DRAWN)
    assert not known(rule(1.5), rule(1.4), created_utc="2026-02-02T00:00:00+00:00")
    # A person's corrections have other texts.
    assert not known(rule(1.5), rule(1.4), created_utc="2026-02-02T00:00:00+00:00", parent=DRAWN, origin="import")
    assert not known(None, None, created_utc="2026-02-02T00:00:00+00:00", parent=DRAWN)


def test_pairs_that_no_rule_decides_about_are_not_among_those_that_it_may_keep():
    named = [("kept, without a score", 1), ("not kept, without a score", 10), ("not kept, score 0.10 to 0.20", 100)]
    strata = [
        SimpleNamespace(name=name, is_kept=name.startswith("kept"), num_units=number, num_drawn=0)
        for name, number in named
    ]
    draw = SimpleNamespace(strata=strata)
    assert num_unseen(draw, keeps_no_others=True) == 1
    assert num_unseen(draw, keeps_no_others=False) == 101
