"""Mutants of the commit path: `store`, `workers/faults` and what `pipeline` does between a shard and its receipt."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = ()
