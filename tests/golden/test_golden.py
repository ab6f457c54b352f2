"""A few scenes, ready masks and every export have the bytes on record; `python -m tests.golden` makes more."""

from __future__ import annotations

import json

import pytest

from tests.golden.__main__ import RECORD, differences, digests, made_with
from tests.golden.scenarios import FAST


@pytest.mark.ray
@pytest.mark.long
def test_no_table_and_no_export_changed_by_a_byte(tmp_path) -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    if recorded["made_with"] != made_with():
        pytest.skip(f"the digests on record were made with {recorded['made_with']}")
    found = digests(FAST, tmp_path)
    assert len(found) > 20
    assert differences(found, recorded["digests"]) == []
