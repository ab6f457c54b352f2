"""The digest by which a resumed run sees a changed constant."""

from pseudoris.workers.pass_sizes import pass_sizes_digest


def test_the_digest_is_that_of_runs_that_were_begun():
    # Headers since 0.6.0 have it: another one refuses to resume them.
    assert pass_sizes_digest() == "41bc4235cd38"
