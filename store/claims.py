"""What the file of a claim on a run says; a file that says anything else is nobody's claim."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

# Of Linux; macOS and others stay far below.
_MAX_PID: Final = 2**22


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim's file says.

    Attributes:
        owner: The owner's nonce.
        counter: Raised by every heartbeat.
        host: Machine and process namespace of the owner.
        pid: The owner's process.
        is_released: Whether the owner is done.
    """

    owner: str
    counter: int
    host: str
    pid: int
    is_released: bool = False


def claim_to_bytes(claim: Claim) -> bytes:
    """Return the claim as its file holds it."""
    return json.dumps(asdict(claim)).encode()


def claim_from_bytes(data: bytes) -> Claim | None:
    """Return the claim that a file holds; None where it was not written by us."""
    try:
        claim = Claim(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = {"owner": str, "counter": int, "host": str, "pid": int, "is_released": bool}
    is_typed = all(type(getattr(claim, name)) is kind for name, kind in kinds.items())
    # 0 and below would ask the system about groups of processes, ours among them.
    return claim if is_typed and 0 < claim.pid <= _MAX_PID else None
