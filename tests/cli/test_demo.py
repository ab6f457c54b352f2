"""`pseudoris demo` ends with everything a newcomer needs to look at."""


def test_the_demo_prints_summary_tables_rows_and_the_page(tiny_run):
    shown = tiny_run.printed
    assert all(word in shown.stdout for word in ("summary", "quarantined", "tables", "3 rows of expressions", "page"))
    page = tiny_run.out / "gallery" / "index.html"
    assert str(page) in shown.stdout
    assert page.stat().st_size > 10_000
