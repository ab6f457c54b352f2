"""What fails without a break kills no mutant: `test_mutants.py` names it. pytest does not collect it."""


def test_that_fails_without_a_break() -> None:
    raise AssertionError("as ever")
