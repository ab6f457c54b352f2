"""All mutants: of the exact rows of docs/conformance.md, and of the commit path."""

from __future__ import annotations

from typing import Final

from tests.mutants.conformance_learners import MUTANTS as LEARNERS
from tests.mutants.conformance_method import MUTANTS as METHOD
from tests.mutants.durable_commit import MUTANTS as COMMIT
from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (*METHOD, *LEARNERS, *COMMIT)
