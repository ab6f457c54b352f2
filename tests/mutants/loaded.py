"""A plugin of pytest for a mutant's tests: ends the run with an error unless the broken file is the one in use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

NOT_LOADED = 90


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare where the mutated module was imported from, or for a data file its room, with the copy."""
    copy, file = Path(os.environ["PSEUDORIS_MUTANTS_COPY"]), os.environ["PSEUDORIS_MUTANTS_FILE"]
    parts = Path(file).with_suffix("").parts
    has_own_name = parts[0] in ("pseudoris", "evidence")
    name = ".".join(parts if has_own_name else ("pseudoris", *parts))
    if not file.endswith(".py"):
        name = f"pseudoris.{parts[0]}"
    module = sys.modules.get(name.removesuffix(".__init__"))
    wanted = copy / file if file.endswith(".py") else copy / parts[0] / "__init__.py"
    if module is None or Path(str(module.__file__)).resolve() != wanted.resolve():
        session.exitstatus = NOT_LOADED
