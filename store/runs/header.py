"""`_run.json`, the header: created once, after the plan. It names a run's plan, identity and configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import HEADER_NAME, PLAN_FOLDER, RUN_VERSION, Identity, PlanExtension, RunHeader
from pseudoris.store.location import RunLocation

_EXTENSION_NAME: Final = re.compile(r"^g(\d{4})\.json$")
_SUMMED: Final = ("num_images", "num_repeated", "num_shards")
_Header = TypeVar("_Header", RunHeader, PlanExtension)


def create_header(location: RunLocation, header: RunHeader) -> RunHeader:
    """Create the header; return `header`, or the one that another driver created first.

    Raises:
        ConfigError: The location cannot be written, or the existing header cannot be used.
        TransientError: Storage failed.
    """
    if location.create_once(HEADER_NAME, header.model_dump_json(indent=2).encode()):
        return header
    return require_header(location)


def create_extension(location: RunLocation, extension: PlanExtension) -> RunHeader:
    """Create the extension of the plan; return the run's header with `extension`, or with another driver's.

    Raises:
        ConfigError: The location cannot be written, or the existing extension cannot be used.
        TransientError: Storage failed.
    """
    location.create_once(extension_path(extension.number), extension.model_dump_json(indent=2).encode())
    return require_header(location)


def extension_path(number: int) -> str:
    """Return the path of the header of the plan's generation `number`, `_plan/g0002.json`."""
    return f"{PLAN_FOLDER}/g{number:04d}.json"


def read_header(location: RunLocation) -> RunHeader | None:
    """Return the run's header with all extensions of its plan; None if there is no run.

    Raises:
        ConfigError: A later version wrote it, or it is not a header.
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


def check_identity(
    header: RunHeader, identity: Identity, source: str | None = None, *, allow_mixed: bool = False
) -> list[str]:
    """Accept `identity` and `source` for the run of `header`.

    Args:
        header: Of the existing run.
        identity: Accepted if no field differs, or if `allow_mixed` accepts all that differ.
        source: As for `check_source`; None is not checked.
        allow_mixed: Accept another device and other package versions.

    Returns:
        The accepted differences, one line per field.

    Raises:
        ConfigError: Other fields differ. It has one line per field: the run's value, and the value given now.
    """
    acceptable = header.identity.mixed_differences(identity)
    refused = header.identity.method_differences(identity) + ([] if allow_mixed else acceptable)
    if not refused:
        if source is not None:
            check_source(header, source)
        return acceptable
    if source is not None and _place(header.source) != _place(source):
        refused.append(f"SOURCE: {header.source!r} in the run, {source!r} now")
    lines = "\n".join(f"  {line}" for line in refused)
    mixed = ", or accept other devices and package versions with --allow-mixed" if refused == acceptable else ""
    raise ConfigError(
        f"this output holds a run with another identity, so the tables would not match:\n{lines}\n"
        f"Use the settings that the run was started with, or name another output{mixed}"
    )


def check_origin(location: RunLocation, header: RunHeader, origin: str) -> None:
    """Accept the run of `header` if `origin`, the command that continues it, started it.

    Raises:
        ConfigError: Another command started it; the tables would not match.
    """
    if header.origin == origin:
        return
    parent = f" from {header.parent.location}" if header.parent else ""
    remedy = f"; to compute images again, use {header.parent.location}" if header.parent else ""
    raise ConfigError(
        f"{location.root} holds a run of `pseudoris {header.origin}`{parent}. `{origin}` cannot continue it: name "
        f"another output{remedy}"
    )


def check_source(header: RunHeader, source: str) -> None:
    """Accept `source`, a `Source.name`, if the run was planned from it.

    A copy in another place is refused too. Its ids would be the same, as they are relative to SOURCE. But its files may
    have other times or etags, and their images would be quarantined as changed.

    Raises:
        ConfigError: The run was planned from another SOURCE.
    """
    if _place(header.source) != _place(source):
        raise ConfigError(
            f"this output was planned from SOURCE {header.source!r}, but SOURCE is {source!r} now. Give the first one "
            "to continue, or name another output"
        )


def _extended(location: RunLocation, header: RunHeader) -> RunHeader:
    matches = (_EXTENSION_NAME.match(file.name) for file in location.list(PLAN_FOLDER))
    numbers = sorted(int(match[1]) for match in matches if match)
    if numbers != list(range(2, 2 + len(numbers))):
        raise ConfigError(
            f"{location.uri(PLAN_FOLDER)} holds the extensions {numbers} of the plan, but an earlier one is missing: "
            "restore the file from a copy, or start again with another output"
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
    # Checked before the fields: the fields of a later version would only show as unknown keys.
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
            f"{uri} is not a valid header, see {', '.join(places)}: it was edited, or another version of pseudoris "
            "wrote it. Use that version, or name another output"
        ) from None


def _place(source: str) -> str:
    # Resolved here, not in the header: from two folders, `../photos` may name the same third one.
    return source.rstrip("/") if "://" in source else str(Path(source).resolve())
