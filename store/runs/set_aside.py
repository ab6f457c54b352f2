"""The shards of a session that are set aside: each failed alone, and the others are committed first.

A failure that every shard has must not be taken for one of many shards, or a run would spend its time on nothing. So
the run stops if `MAX_IN_A_ROW` shards fail and none is committed between them. That is the most that such a failure
costs, also at the start, when nothing is committed yet. A failure that was proven to be the shard's own is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pseudoris.schemas.errors import ConfigError, PseudorisError, TransientError
from pseudoris.schemas.shard import ShardFault
from pseudoris.store.runs.events import Notice, OnEvent

MAX_IN_A_ROW: Final = 3
# Of a thousand faults, the first ones tell what is wrong.
_MAX_SHOWN: Final = 10


class SetAside:
    """Collects the faults of one session."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._faults: list[ShardFault] = []
        self._row: list[ShardFault] = []
        self._has_commits = False

    def add(self, fault: ShardFault) -> None:
        """Set a shard aside, and tell the user.

        Raises:
            ConfigError, TransientError: It is one too many without a commit between.
        """
        self._faults.append(fault)
        if not fault.is_proven:
            self._row.append(fault)
        if len(self._row) == MAX_IN_A_ROW:
            raise _stopped(self._row)
        if len(self._faults) <= _MAX_SHOWN:
            self._on_event(Notice(f"shard {fault.shard} is set aside, the others go on: {fault.message}"))

    def end_row(self) -> None:
        """Note a commit: the faults before it are not those of every shard."""
        self._row.clear()
        self._has_commits = True

    def check(self) -> None:
        """Accept the end of the work if no shard is set aside.

        Raises:
            ConfigError: Some are, and the user must correct something for each of them.
            TransientError: Some are, for other reasons.
        """
        if not self._faults:
            return
        if not self._has_commits:
            raise _stopped(self._faults)
        raise fault_error(
            self._faults,
            f"not committed: {_numbered(self._faults)}. All other shards are. Correct this, then run the same command "
            f"again: it computes only what is left\n{_lines(self._faults)}",
        )


def fault_error(faults: Sequence[ShardFault], text: str) -> PseudorisError:
    """Return the error of `faults`: a ConfigError if the user must correct something for each of them."""
    return ConfigError(text) if all(fault.is_config for fault in faults) else TransientError(text)


def _stopped(faults: Sequence[ShardFault]) -> PseudorisError:
    """Return the error of shards between which none was committed: most likely they failed for one reason."""
    messages = {fault.message for fault in faults}
    if len(messages) == 1:
        return fault_error(faults, messages.pop())
    return fault_error(faults, f"{_numbered(faults)} failed, and none was committed between them\n{_lines(faults)}")


def _numbered(faults: Sequence[ShardFault]) -> str:
    if len(faults) == 1:
        return f"shard {faults[0].shard}"
    numbers = ", ".join(str(fault.shard) for fault in faults[:_MAX_SHOWN])
    return f"{len(faults):,} shards ({numbers}{', …' if len(faults) > _MAX_SHOWN else ''})"


def _lines(faults: Sequence[ShardFault]) -> str:
    return "\n".join(f"  shard {fault.shard}: {fault.message}" for fault in faults[:_MAX_SHOWN])
