"""What is tested stands without what measures its speed: a benchmark may leave, and only its own tests go with it."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
IMPORT = re.compile(r"^\s*(?:from|import) evidence\.benchmarks\b", re.MULTILINE)


def test_only_tests_of_benchmarks_import_benchmarks():
    others = (path for path in TESTS.rglob("*.py") if not path.is_relative_to(TESTS / "evidence"))
    assert [path for path in others if IMPORT.search(path.read_text(encoding="utf-8"))] == [], "see tests/oracles"
