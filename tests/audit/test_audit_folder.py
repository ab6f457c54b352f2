from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pseudoris.audit.audit_folder import AuditFolder, add_file
from pseudoris.audit.verdicts import Known, VerdictLine
from pseudoris.schemas.errors import ConfigError
from tests.builders.audits import VerdictFile

KNOWN = Known("a" * 64, {"p1", "p2"}, set())


@pytest.fixture
def audit(tmp_path):
    # Of a folder, adding reads no more than its path and what it knows.
    return AuditFolder(tmp_path, None, None, None, KNOWN)


def written(folder, *pairs, verdict="right"):
    folder.mkdir(exist_ok=True)
    with VerdictFile.open(folder, "ana", KNOWN) as file:
        for pair in pairs:
            file.append(VerdictLine(pair=pair, verdict=verdict))
    return folder / "verdicts" / "ana.jsonl"


def test_a_file_is_added_once_and_a_later_state_continues_it(audit, tmp_path):
    file = written(tmp_path / "phone", "p1")
    assert add_file(audit, file).num_new == 2
    earlier = file.read_bytes()
    assert add_file(audit, file).num_new == 0
    written(tmp_path / "phone", "p2")
    assert add_file(audit, file).num_new == 1
    file.write_bytes(earlier)
    assert set(add_file(audit, file).answers.verdicts) == {"p1", "p2"}


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
