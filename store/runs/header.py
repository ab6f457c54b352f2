"""Reads and writes a run's header, `_run.json` with the plan's extensions, and checks whether a resume fits it.

Called by all that open a run, mostly through `store/tables/open_run.py`. Each JSON record of a run must carry the
digest of its own bytes (`sealed`, `parse_record`), so that a later change is found. That detects accidents. Against a
person who writes a matching digest, compare the run's root digest (`receipts.RootDigest`).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from pseudoris.files.location import RunLocation, resolved
from pseudoris.primitives.errors import ConfigError, refuse_other_version
from pseudoris.primitives.untrusted import EXTENSIONS, parse_json, without_secrets
from pseudoris.primitives.uris import RECORDED, refuse_secrets, secrets_in, values_in
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import (
    HEADER_NAME,
    MANIFEST_FOLDER,
    PLAN_FOLDER,
    RECEIPTS_FOLDER,
    RECORDS_VERSION,
    Identity,
    PlanExtension,
    RunHeader,
    SealedRecord,
)
from pseudoris.store.exclusion_rules import extended_exclusions

_Record = TypeVar("_Record", bound=SealedRecord)

_SEAL: Final = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n\}\Z')


def sealed(record: _Record) -> tuple[_Record, bytes]:
    """Return the record with its digest, and the bytes of its file.

    The digest covers every byte of the file without its last field, so that it does not depend on how a later version
    writes JSON.
    """
    content = record.model_dump_json(indent=2, exclude={"sha256"}).encode()
    digest = sha256_hex(content)
    data = content.removesuffix(b"\n}") + f',\n  "sha256": "{digest}"\n}}'.encode()
    return record.model_copy(update={"sha256": digest}), data


def parse_record(
    data: bytes, uri: str, model: type[_Record], what: str, *, remedy: str, again: str = "annotate again"
) -> _Record:
    """Return the record in `data`, the bytes of the file `uri`; `what` names it for errors, with its article.

    `remedy` says what to do about a record that was changed, `again` how to make one of another version anew.

    Raises:
        ConfigError: It is not a record, was changed after it was written, or another version of the package wrote it.
    """
    seal = _SEAL.search(data)
    if seal is not None and sha256_hex(data[: seal.start()] + b"\n}") != seal[1].decode():
        raise ConfigError(f"{uri} was changed after it was written: its sha256 is not the one that it names. {remedy}")
    try:
        version = parse_json(data)["version"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{uri} ({len(data)} bytes) is not {what}. {remedy}") from None
    # The version is checked before the fields: fields of another version would be reported as unknown keys.
    refuse_other_version(uri, version, RECORDS_VERSION, again=again)
    if seal is None:
        raise ConfigError(f"{uri} was changed after it was written: its sha256 is missing or misplaced. {remedy}")
    try:
        return model.model_validate_json(data, context=RECORDED)
    except ValidationError as error:
        places = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
        raise ConfigError(
            f"{uri} is not a valid {what.split()[1]}, see {', '.join(places)}: it was edited, or another version of "
            f"pseudoris wrote it. {remedy}"
        ) from None


EXTENSION_NAME: Final = re.compile(r"^g([0-9]{4})\.json$")
_HUB_COMMIT: Final = re.compile(r"^(hf://datasets/[^/@]+/[^/@]+)@[0-9a-f]{40}")
_SUMMED: Final = ("num_images", "num_repeated", "num_shards")
# An error shows at most this many differences, because a run of an older version may differ in many packages.
_SHOWN_DIFFERENCES: Final = 24
# At most this many settings are spelled out as options.
_NAMED_SETTINGS: Final = 4
RESTORE: Final = "Restore the file from a copy, or name another output"
_START: Final = "start one with `pseudoris annotate SOURCE OUT --preset NAME`"
_WHAT: Final = "the header of a run"


def refuse_queries(config: RunConfig, source: str, parent: RunHeader | None = None) -> None:
    """Raise ConfigError for a url with a query whose names are neither harmless nor in `source.allowed_query`.

    SOURCE and all settings are checked. What the header of a `parent` holds already is allowed.
    """
    allowed = {*config.source.allowed_query, *held_texts(parent)}
    refuse_secrets(source, allowed)
    if found := "; ".join(secrets_in(config, allowed)):
        raise ConfigError(found)


def held_texts(header: RunHeader | None) -> list[str]:
    """Return what a header holds that may be a secret: SOURCE and the texts of its settings; [] without a header."""
    texts = [] if header is None else [header.source, *(text for _, text in values_in(header.config))]
    return [text for text in texts if isinstance(text, str) and text]


def create_header(location: RunLocation, header: RunHeader) -> RunHeader:
    """Create the header; return `header` with its digest, or the one that another driver created first."""
    header, data = sealed(header)
    if location.create_once(HEADER_NAME, data):
        return header
    return require_header(location)


def create_extension(location: RunLocation, extension: PlanExtension) -> RunHeader:
    """Create the extension of the plan; return the run's header with `extension`, or with another driver's."""
    location.create_once(extension_path(extension.number), sealed(extension)[1])
    return require_header(location)


def extension_path(number: int) -> str:
    """Return the path of the header of the plan's generation `number`, `_plan/g0002.json`."""
    return f"{PLAN_FOLDER}/g{number:04d}.json"


def read_header(location: RunLocation) -> RunHeader | None:
    """Return the run's header with all extensions of its plan; None if there is no run. Raises as `parse_record`."""
    data = location.read_if_there(HEADER_NAME)
    if data is None:
        return None
    header = parse_record(data, location.uri(HEADER_NAME), RunHeader, _WHAT, remedy=RESTORE)
    matches = (EXTENSION_NAME.match(file.name) for file in location.list(PLAN_FOLDER))
    numbers = sorted(int(match[1]) for match in matches if match)
    if numbers != list(range(2, 2 + len(numbers))):
        raise ConfigError(
            f"{location.uri(PLAN_FOLDER)} holds the extensions {numbers} of the plan, but an earlier one is missing: "
            "restore the file from a copy, or start again with another output"
        )
    for number in numbers:
        path = extension_path(number)
        extension = parse_record(location.read_bytes(path), location.uri(path), PlanExtension, _WHAT, remedy=RESTORE)
        if extension.header_sha256 != header.sha256:
            raise ConfigError(
                f"{location.uri(path)} extends another plan than the one that stands: it, or the header before it, was "
                f"replaced. {RESTORE}"
            )
        # A sample of 0.5 that was outside of what the models know still warns, whatever a later sample said.
        outside = (each for each in (extension.domain, header.domain) if each and each.get("num_outside"))
        update = {
            "plan_parts": header.plan_parts + extension.plan_parts,
            "max_shard_bytes": max(header.max_shard_bytes, extension.max_shard_bytes),
            "exclusions": extended_exclusions(header, extension),
            "domain": next(outside, None),
            "sha256": extension.sha256,
            "earlier": header.digests,
        }
        sums = {name: getattr(header, name) + getattr(extension, name) for name in _SUMMED}
        header = header.model_copy(update={**update, **sums})
    return header


def header_digests(location: RunLocation) -> frozenset[str]:
    """Return `RunHeader.digests` of the run; empty if there is no run."""
    header = read_header(location)
    return frozenset() if header is None else header.digests


def require_header(location: RunLocation, remedy: str = _START) -> RunHeader:
    """Return the header of the run in `location`; ConfigError if no run was started there, or it cannot be used.

    `remedy` says what to do about the first, where nothing that lies there does.
    """
    header = read_header(location)
    if header is None:
        if what := location.obstacle(HEADER_NAME):
            raise ConfigError(f"{location.uri(HEADER_NAME)} is {what}, not the header of a run. {RESTORE}")
        if any(next(location.list(folder), None) for folder in (RECEIPTS_FOLDER, MANIFEST_FOLDER)):
            raise ConfigError(f"{location.uri(HEADER_NAME)} is gone, but the results of its run are there. {RESTORE}")
        below = [] if "://" in location.root else sorted(Path(location.root).glob(f"*/{HEADER_NAME}"))
        if below:
            remedy = f"did you mean {below[0].parent}?"
        elif picture := _picture_in(location.root):
            remedy = f"it is a folder of images, such as {picture}. Annotate it first: {_START}"
        raise ConfigError(f"there is no run at {location.root}: {remedy}")
    return header


def _picture_in(root: str) -> str | None:
    """Return the name of a picture that lies in the local folder `root`; None without one."""
    folder = Path(root)
    names = (path.name for path in folder.iterdir()) if "://" not in root and folder.is_dir() else iter(())
    return next((name for name in names if name.lower().endswith(EXTENSIONS)), None)


def check_identity(
    header: RunHeader, identity: Identity, source: str | None = None, *, preset: str | None, allow_mixed: bool = False
) -> list[str]:
    """Accept `identity`, and `source` (a `Source.name`) unless it is None, for the run of `header`.

    With `allow_mixed` another device and other package versions are accepted, and returned, one line per field. If
    `preset`, the one given now, is another than the run's, a refusal names it in place of all that follows from it.

    Raises:
        ConfigError: Other fields differ. It has one line per field: the run's value, and the value given now.
    """
    acceptable, others = header.identity.mixed_differences(identity), header.identity.method_differences(identity)
    mixed = [] if allow_mixed else acceptable
    was, now = without_secrets(header.source), without_secrets(source or "")
    moved = [] if source is None or is_same_source(header, source) else [f"SOURCE: {was!r} in the run, {now!r} now"]
    # A copy in another place is refused too. Its ids would be the same, as they are relative to SOURCE. But its files
    # may have other times or etags, and their images would be quarantined as changed.
    moving = [f"if its images have moved, add {moved_option(header)}"] if moved and header.origin == "annotate" else []
    if others or mixed:
        raise ConfigError(_other_identity(header, identity, preset, (others, mixed, moved), moving))
    if moved:
        raise ConfigError(
            f"this output was planned from SOURCE {was!r}, but SOURCE is {now!r} now. Give the first one to continue, "
            f"or name another output{''.join(f'; {each}' for each in moving)}"
        )
    return acceptable


def _other_identity(
    header: RunHeader, identity: Identity, preset: str | None, lines: tuple[list[str], ...], moving: list[str]
) -> str:
    """Return what to say of a run that differs by `lines`: of the method, of devices and packages, of SOURCE."""
    others, mixed, moved = lines
    own = "the settings that the run was started with"
    # What one command must have together.
    ways = []
    if others and preset not in (None, header.config.preset):
        # Only the preset is named, because the differences that follow from it would take dozens of lines.
        others = [f"preset: {header.config.preset!r} in the run, {preset!r} now, and with it {len(others)} settings"]
        ways.append(f"use --preset {header.config.preset} and {own}")
    elif others:
        held = header.identity.settings_beside(identity)
        is_told = header.origin == "annotate" and 0 < len(held) <= _NAMED_SETTINGS
        ways.append(f"use {own}{': ' * is_told}{' '.join(f'--set {shlex.quote(each)}' for each in held if is_told)}")
    accepting = "accept other devices and package versions with --allow-mixed"
    is_mixed_alone = not (others or moved)
    if is_mixed_alone and len(mixed) == 1 and identity.device_kind != header.identity.device_kind:
        ways.append("continue on its kind of device")
    elif mixed:
        ways.append("continue with its device and package versions" if is_mixed_alone else accepting)
    first = ", and ".join(ways + moving)
    remedies = [first[0].upper() + first[1:]]
    version = header.identity.versions.get("pseudoris")
    if version is not None and version != identity.versions.get("pseudoris"):
        remedies.append(f"finish it with pseudoris {version}")
    remedies += ["or name another output", *([f"or {accepting}"] if is_mixed_alone else [])]
    shown = [*others, *mixed, *moved]
    if len(shown) > _SHOWN_DIFFERENCES:
        shown[_SHOWN_DIFFERENCES:] = [f"and {len(shown) - _SHOWN_DIFFERENCES} more"]
    differences = "".join(f"  {line}\n" for line in shown)
    return f"this output holds a run with another identity, so the tables would not match:\n{differences}" + ", ".join(
        remedies
    )


def check_origin(location: RunLocation, header: RunHeader, origin: str) -> None:
    """Accept the run of `header` if `origin`, the command that continues it, started it; else raise ConfigError."""
    if header.origin == origin:
        return
    above = ", ".join(each.location for each in header.above)
    parent = f" from {above}" if above else ""
    remedy = f"; to compute images again, use {above}" if above else ""
    if header.origin == "combine":
        remedy += ", and combine again"
    raise ConfigError(
        f"{location.root} holds a run of `pseudoris {header.origin}`{parent}. `{origin}` cannot continue it: name "
        f"another output{remedy}"
    )


def check_alike(location: RunLocation, header: RunHeader, what: str) -> None:
    """Accept a run whose images all come from equal models, one preset and one posterior; else raise ConfigError.

    `what` names what needs it. Only a combined run may differ.
    """
    first, *others = header.runs

    def compared(run: RunHeader) -> list[object]:
        identity, fitted = run.identity, run.config.filtering.fitted_values
        return [identity.weights, identity.folders, run.config.preset, run.config.composing, fitted.posterior]

    for other in others:
        if compared(other) != compared(first):
            raise ConfigError(
                f"{what} needs runs of equal models, preset and posterior, and {first.name} and {other.name} in "
                f"{location.root} differ: do it in each run, and combine again"
            )


def moved_option(header: RunHeader) -> str:
    """Return what a command that names the new place of the run's images as SOURCE must add."""
    return f"--moved-from {shlex.quote(without_secrets(header.source))}"


def is_same_source(header: RunHeader, source: str) -> bool:
    """Return whether `source`, a `Source.name`, is the place that the run was planned from."""
    # The header keeps links unresolved, so they are resolved here: two paths may lead to the same folder.
    return resolved(header.source) == resolved(source)


def planned_source(header: RunHeader, source: str) -> str:
    """Return the SOURCE of the run if `source` is its dataset on the Hub, named without a revision; else `source`."""
    is_same = _HUB_COMMIT.sub(r"\1", header.source) == source.rstrip("/") != header.source
    return header.source if is_same else source
