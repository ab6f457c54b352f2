"""`pseudoris demo` ends with everything a newcomer needs to look at."""


def test_the_demo_prints_summaries_tables_rows_the_comparison_and_the_pages(tiny_run):
    shown = tiny_run.printed.stdout
    for words in (
        "summary",
        "quarantined",
        "tables",
        "3 rows of expressions",
        "both against the truth",
        "page",
        "is an absence",
        "--quarantined",
    ):
        assert words in shown
    (composed,) = tiny_run.out.parent.glob("tiny-composed-*")
    for out in (tiny_run.out, composed):
        page = out / "gallery" / "index.html"
        assert str(page) in shown
        assert page.stat().st_size > 10_000
    (right,) = (line.split()[-2:] for line in shown.splitlines() if "share that is right" in line)
    assert all(0 < float(each) <= 1 for each in right)
