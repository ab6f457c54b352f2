"""`_run.json`: created once after the plan; it says which plan, which identity and which configuration a run has."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.run import HEADER_NAME, RUN_VERSION, Identity, RunHeader
from store.location import RunLocation


def create_header(location: RunLocation, header: RunHeader) -> RunHeader:
    """Return the header that stands: `header`, or the one that another driver created first.

    Raises:
        ConfigError: The location cannot be written, or the header that stands cannot be used.
        TransientError: Storage failed.
    """
    if location.create_once(HEADER_NAME, header.model_dump_json(indent=2).encode()):
        return header
    return _parse(location, location.read_bytes(HEADER_NAME))


def read_header(location: RunLocation) -> RunHeader | None:
    """Return the run's header, None where no run was started.

    Raises:
        ConfigError: It was written by a later version, or is not a header.
        TransientError: Storage failed.
    """
    try:
        data = location.read_bytes(HEADER_NAME)
    except FileNotFoundError:
        return None
    return _parse(location, data)


def require_header(location: RunLocation) -> RunHeader:
    """Return the header of the run in `location`.

    Raises:
        ConfigError: No run was started there, or its header cannot be used.
        TransientError: Storage failed.
    """
    header = read_header(location)
    if header is None:
        below = [] if "://" in location.root else sorted(Path(location.root).glob(f"*/{HEADER_NAME}"))
        remedy = f"did you mean {below[0].parent}?" if below else "start one with `pseudoris annotate SOURCE OUT`"
        raise ConfigError(f"there is no run at {location.root}: {remedy}")
    return header


def check_identity(header: RunHeader, identity: Identity) -> None:
    """Accept `identity` for the run of `header` when no field differs.

    Raises:
        ConfigError: With a line for each differing field: what the run was started with, and what is given now.
    """
    differences = header.identity.differences(identity)
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ConfigError(
            f"this output belongs to a run with another identity, so its tables would not fit together:\n{lines}\n"
            "Run with the settings it was started with, or name another output"
        )


def _parse(location: RunLocation, data: bytes) -> RunHeader:
    uri = location.uri(HEADER_NAME)
    try:
        tree = json.loads(data)
        version = tree["version"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{uri} is not the header of a run ({len(data)} bytes): name another output") from None
    # Asked before the fields are: those of a later version would only read as unknown keys.
    if version != RUN_VERSION:
        raise ConfigError(
            f"{uri} has version {version!r}, this package reads version {RUN_VERSION}: "
            "install the version of pseudoris that wrote it, or name another output"
        )
    try:
        return RunHeader.model_validate_json(data)
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
        raise ConfigError(
            f"{uri} does not hold as a header, see {', '.join(places)}: it was edited, or written by another "
            "version of pseudoris; use that one, or name another output"
        ) from None
