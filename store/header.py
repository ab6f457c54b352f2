"""`_run.json`: created once after the plan; it says which plan, which identity and which configuration a run has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.run import HEADER_NAME, PLAN_FOLDER, RUN_VERSION, Identity, PlanExtension, RunHeader
from store.location import RunLocation

_EXTENSION_NAME: Final = re.compile(r"^g(\d{4})\.json$")
_SUMMED: Final = ("num_images", "num_repeated", "num_shards")
_Header = TypeVar("_Header", RunHeader, PlanExtension)


def create_header(location: RunLocation, header: RunHeader) -> RunHeader:
    """Return the header that stands: `header`, or the one that another driver created first.

    Raises:
        ConfigError: The location cannot be written, or the header that stands cannot be used.
        TransientError: Storage failed.
    """
    if location.create_once(HEADER_NAME, header.model_dump_json(indent=2).encode()):
        return header
    return require_header(location)


def create_extension(location: RunLocation, extension: PlanExtension) -> RunHeader:
    """Return the run's header with the extension of its plan that stands: `extension`, or another driver's.

    Raises:
        ConfigError: The location cannot be written, or what stands there cannot be used.
        TransientError: Storage failed.
    """
    location.create_once(extension_path(extension.number), extension.model_dump_json(indent=2).encode())
    return require_header(location)


def extension_path(number: int) -> str:
    """Return where the header of the plan's generation `number` stands, `_plan/g0002.json`."""
    return f"{PLAN_FOLDER}/g{number:04d}.json"


def read_header(location: RunLocation) -> RunHeader | None:
    """Return the run's header, its plan with all extensions; None where no run was started.

    Raises:
        ConfigError: It was written by a later version, or is not a header.
        TransientError: Storage failed.
    """
    try:
        data = location.read_bytes(HEADER_NAME)
    except FileNotFoundError:
        return None
    return _extended(location, _parse(location, data, HEADER_NAME, RunHeader))


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


def check_identity(header: RunHeader, identity: Identity, *, allow_mixed: bool = False) -> list[str]:
    """Accept `identity` for the run of `header` when no field differs, or none that `allow_mixed` does not accept.

    Returns:
        The accepted differences, a line a field.

    Raises:
        ConfigError: With a line for each differing field: what the run was started with, and what is given now.
    """
    acceptable = header.identity.mixed_differences(identity)
    refused = header.identity.method_differences(identity) + ([] if allow_mixed else acceptable)
    if not refused:
        return acceptable
    lines = "\n".join(f"  {line}" for line in refused)
    mixed = ", or accept other devices and versions with --allow-mixed" if refused == acceptable else ""
    raise ConfigError(
        f"this output belongs to a run with another identity, so its tables would not fit together:\n{lines}\n"
        f"Run with the settings it was started with, or name another output{mixed}"
    )


def check_origin(location: RunLocation, header: RunHeader, origin: str) -> None:
    """Accept the run of `header` where `origin`, the command that is to go on with it, made it.

    Raises:
        ConfigError: Another one did; its tables would not fit together.
    """
    if header.origin == origin:
        return
    parent = f" out of {header.parent.location}" if header.parent else ""
    remedy = f"; what is to be computed anew is computed in {header.parent.location}" if header.parent else ""
    raise ConfigError(
        f"{location.root} holds a run that `pseudoris {header.origin}` made{parent}, and `{origin}` cannot go on with "
        f"it: name another output{remedy}"
    )


def check_source(header: RunHeader, source: str) -> None:
    """Accept `source`, a `Source.name`, where it is the one that the run was planned from.

    A copy in another place is refused as well. Ids are relative to SOURCE and would hold, but its files may have
    other times or etags: their images would be quarantined as changed.

    Raises:
        ConfigError: It is another one.
    """
    if _place(header.source) != _place(source):
        raise ConfigError(
            f"this output was planned from SOURCE {header.source!r}, and is given {source!r} now. Give the first "
            "again to continue, or name another output"
        )


def _extended(location: RunLocation, header: RunHeader) -> RunHeader:
    matches = (_EXTENSION_NAME.match(file.name) for file in location.list(PLAN_FOLDER))
    numbers = sorted(int(match[1]) for match in matches if match)
    if numbers != list(range(2, 2 + len(numbers))):
        raise ConfigError(
            f"{location.uri(PLAN_FOLDER)} holds the extensions {numbers} of the plan, one between them is missing: "
            "put the file back from a copy, or start anew with another output"
        )
    for number in numbers:
        path = extension_path(number)
        extension = _parse(location, location.read_bytes(path), path, PlanExtension)
        sums = {name: getattr(header, name) + getattr(extension, name) for name in _SUMMED}
        largest = max(header.max_shard_bytes, extension.max_shard_bytes)
        parts = header.plan_parts + extension.plan_parts
        header = header.model_copy(update={"plan_parts": parts, "max_shard_bytes": largest, **sums})
    return header


def _parse(location: RunLocation, data: bytes, path: str, model: type[_Header]) -> _Header:
    uri = location.uri(path)
    try:
        tree = json.loads(data)
        version = tree["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(f"{uri} is not the header of a run ({len(data)} bytes): name another output") from None
    # Asked before the fields are: those of a later version would only read as unknown keys.
    if version != RUN_VERSION:
        raise ConfigError(
            f"{uri} has version {version!r}, this package reads version {RUN_VERSION}: "
            "install the version of pseudoris that wrote it, or name another output"
        )
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
        raise ConfigError(
            f"{uri} does not hold as a header, see {', '.join(places)}: it was edited, or written by another "
            "version of pseudoris; use that one, or name another output"
        ) from None


def _place(source: str) -> str:
    # Followed here and not in the header: `../photos` names one folder from two others.
    return source.rstrip("/") if "://" in source else str(Path(source).resolve())
