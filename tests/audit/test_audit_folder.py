from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pseudoris.audit.audit_folder import (
    AuditFolder,
    Known,
    MissedLine,
    UndoLine,
    VerdictLine,
    add_file,
    read_answers,
)
from pseudoris.primitives.errors import ConfigError
from tests.builders.audits import add_answers

KNOWN = Known("a" * 64, {"p1", "p2"}, {"i1"})


@pytest.fixture
def audit(tmp_path):
    # Of a folder, adding reads no more than its path and what it knows.
    return AuditFolder(tmp_path, None, None, None, KNOWN)


def written(folder, pair, verdict="right"):
    return add_answers(folder, KNOWN, [VerdictLine(pair=pair, verdict=verdict)])


def read(path, **changes):
    return read_answers(path.read_bytes(), path.name, KNOWN, **changes)


def test_a_file_is_added_once_and_a_later_state_continues_it(audit, tmp_path):
    file = written(tmp_path / "phone", "p1")
    assert add_file(audit, file)[0] == 2
    earlier = file.read_bytes()
    assert add_file(audit, file)[0] == 0
    written(tmp_path / "phone", "p2")
    assert add_file(audit, file)[0] == 1
    file.write_bytes(earlier)
    assert set(add_file(audit, file)[1].verdicts) == {"p1", "p2"}


def test_two_people_of_one_name_are_told_apart_by_the_line(audit, tmp_path):
    add_file(audit, written(tmp_path / "phone", "p1"))
    with pytest.raises(ConfigError, match=r"ana.jsonl, line \d: the audit has other verdicts of a rater 'ana'"):
        add_file(audit, written(tmp_path / "laptop", "p1", verdict="untrue"))


def test_files_added_at_once_are_added_one_after_the_other(audit, tmp_path):
    first = written(tmp_path / "phone", "p1").read_bytes()
    files = [tmp_path / "first.jsonl", written(tmp_path / "phone", "p2")]
    files[0].write_bytes(first)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_file(audit, files[number % 2]), range(32)))
    assert (audit.path / "verdicts" / "ana.jsonl").read_bytes() == files[1].read_bytes()


def test_the_last_line_about_a_pair_counts_and_an_undo_withdraws_it(tmp_path):
    answers = [
        VerdictLine(pair="p1", verdict="untrue"),
        VerdictLine(pair="p1", verdict="right", comment="déjà vu"),
        VerdictLine(pair="p2", verdict="several"),
        MissedLine(image="i1", clicks=((1, 2), (3, 4))),
        UndoLine(pair="p2"),
    ]
    found = read(add_answers(tmp_path, KNOWN, answers))
    assert {pair: line.verdict for pair, line in found.verdicts.items()} == {"p1": "right"}
    assert found.verdicts["p1"].comment == "déjà vu"
    assert len(found.missed["i1"].clicks) == 2
    assert (found.num_replaced, found.num_undone) == (1, 1)


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path):
    path = add_answers(tmp_path, KNOWN, [VerdictLine(pair="p1", verdict="right")])
    with path.open("ab") as file:
        file.write(b'{"line":"verdict","pair":"p2","ver')
    assert (set(read(path).verdicts), read(path).num_cut_bytes) == ({"p1"}, 34)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], lines[1].replace("right", "untrue"), *lines[2:]], "line 2: its digest .* was edited"),
        (lambda lines: [lines[0], *lines[2:]], "line 2: its digest"),
        (lambda lines: lines[1:], "line 1: its digest"),
        (lambda lines: ["{}", *lines], "line 1: it does not end with a digest: '{}'"),
    ],
    ids=["edited", "removed", "beheaded", "foreign"],
)
def test_a_changed_file_is_refused_by_its_line(tmp_path, change, message):
    said = {"p1": "right", "p2": "several"}.items()
    path = add_answers(tmp_path, KNOWN, [VerdictLine(pair=pair, verdict=verdict) for pair, verdict in said])
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_verdicts_on_another_draw_or_pair_or_of_another_rater_are_refused_by_name(tmp_path):
    path = add_answers(tmp_path, Known("b" * 64, set(), set()), [])
    with pytest.raises(ConfigError, match="answers the draw bbbbbbbbbbbb…, and this audit is the draw aaaaaaaaaaaa"):
        read(path)
    path = add_answers(tmp_path, KNOWN, [VerdictLine(pair="p9", verdict="right")], rater="bob")
    with pytest.raises(ConfigError, match=r"bob.jsonl, line 2: the audit has no pair 'p9'"):
        read(path)
    with pytest.raises(ConfigError, match="holds the verdicts of the rater 'bob'"):
        read(path, rater="ana")
    path.write_text(2 * path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ConfigError, match="line 2"):
        read(path)
