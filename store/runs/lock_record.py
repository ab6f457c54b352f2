"""The record of a claim on a run, and its file format. Unparseable lock files are ignored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from pseudoris.schemas.json_text import parse_json

# The maximum on Linux; macOS and others are far below.
_MAX_PID: Final = 2**22


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of a claim's file.

    Attributes:
        owner: The owner's nonce.
        counter: Raised by every heartbeat.
        host: The owner's machine and process namespace.
        pid: The owner's process number.
        is_released: Whether the owner has released the lock.
    """

    owner: str
    counter: int
    host: str
    pid: int
    is_released: bool = False


def claim_to_bytes(claim: Claim) -> bytes:
    """Return the bytes of the claim's file."""
    return json.dumps(asdict(claim)).encode()


def claim_from_bytes(data: bytes) -> Claim | None:
    """Return the claim in a file; None if pseudoris did not write it."""
    try:
        claim = Claim(**parse_json(data))
    except (ValueError, TypeError):
        return None
    kinds = {"owner": str, "counter": int, "host": str, "pid": int, "is_released": bool}
    is_typed = all(type(getattr(claim, name)) is kind for name, kind in kinds.items())
    # For 0 and below, the system would check groups of processes, our own among them.
    return claim if is_typed and 0 < claim.pid <= _MAX_PID else None
