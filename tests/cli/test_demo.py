"""`pseudoris demo` ends with everything a newcomer needs to look at."""

import pytest

from tests.builders.command import pseudoris


@pytest.mark.ray
def test_the_demo_prints_summary_tables_rows_and_the_page(tmp_path):
    shown = pseudoris("demo", "demo out", "--scenes", "3", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert all(word in shown.stdout for word in ("summary", "quarantined", "tables", "3 rows of expressions", "page"))
    (page,) = (tmp_path / "demo out").glob("run-3-*/gallery/index.html")
    assert str(page) in shown.stdout
    assert page.stat().st_size > 10_000
