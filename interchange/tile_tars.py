"""Cuts the large and long pictures of SOURCE into tars of tiles, which `annotate` then takes as its SOURCE.

DEST/tiles-000017-<digest>.tar    tiles, and pictures that fit, byte for byte; the digest is of their keys and sizes
DEST/.tiles/000017-<digest>.json  what became of its pictures, of which versions, and why some were left out
DEST/.tiles/left_out.json         pictures that cannot be read, for `annotate DEST` to name; written last
DEST/.tiles.json                  what DEST was made of: another SOURCE or setting is refused

Called by `cli/tile`. A tar is a commit: its record is written before it, and the same command goes on behind the last
one. Pictures are decoded in the prover's process alone, one at a time. Readers of a DEST pass over hidden names.
"""

from __future__ import annotations

import itertools
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from pydantic import Field

from pseudoris.files.key_order import file_path
from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import file_suffix
from pseudoris.images.prover import Prover
from pseudoris.images.tiles import Tile, TileForm, marked
from pseudoris.interchange.exports.output_files import add_to_tar, new_file
from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.config import ImagesConfig, RunConfig, ShardsConfig
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.ids import CONTENT_HASH_HEX_DIGITS, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.store.exclusion_rules import ExclusionMatcher, Exclusions, with_counts
from pseudoris.store.runs.lock import LOCK_FOLDER, RunLock
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.runs.stored_exclusions import ExcludedItems
from pseudoris.store.sources.items import TAR_NAME, TILES_NAME, UNTILED_NAME
from pseudoris.store.sources.planned_images import Outcome
from pseudoris.store.sources.proven_shard import read_settled
from pseudoris.store.sources.source import Source

logger = logging.getLogger(__name__)

RECORDS_FOLDER: Final = ".tiles"
# Limits of this command, where the settings have lower ones: a picture is decoded alone, with 4 bytes for each pixel,
# and no object store holds its bytes.
_LIMITS: Final = {
    "max_pixels": 1_000_000_000,
    "max_bytes": 4 * 2**30,
    "decoder_memory_bytes": 12 * 2**30,
    "decoder_timeout_s": 600.0,
}
# A tar takes so many pictures and encoded bytes of SOURCE: what a kill loses, and what a bucket's upload needs on disk.
# Tiles of JPEGs take ten times their bytes.
_OF_A_TAR: Final = ShardsConfig(max_images=256, max_bytes=128 * 2**20)


class TarRecord(FrozenModel):
    """What became of the pictures of one tar: how many were cut and copied, into how many tiles.

    `left_out` has key, reason and message of each other one, `versions` is a digest of their times and ETags.
    """

    versions: str = ""
    num_cut: int = Field(default=0, ge=0)
    num_copied: int = Field(default=0, ge=0)
    num_tiles: int = Field(default=0, ge=0)
    left_out: tuple[tuple[str, str, str], ...] = ()


@dataclass(slots=True)
class TileSummary:
    """What DEST holds: pictures that were cut and copied, tiles, tars, of these earlier calls' tars.

    Attributes:
        num_excluded: Pictures that rules by name left out.
        left_out: Other pictures that are not there, by reason.
        examples: Key and message of the first ones.
        unread: Key and reason of those that cannot be read.
        notes: What the user should know of the rules and the listing.
    """

    num_cut: int = 0
    num_copied: int = 0
    num_tiles: int = 0
    num_tars: int = 0
    num_tars_before: int = 0
    num_excluded: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, record: TarRecord) -> None:
        """Count a tar."""
        self.num_tars += 1
        self.num_cut += record.num_cut
        self.num_copied += record.num_copied
        self.num_tiles += record.num_tiles
        for key, reason, message in record.left_out:
            self.left_out[reason] += 1
            self.unread += [(key, reason)] if reason not in _UNWANTED else []
            if len(self.examples) < _MAX_EXAMPLES:
                self.examples[key] = message


_MAX_EXAMPLES: Final = 3
_UNWANTED: Final = frozenset({"excluded", "too_small"})


def tile(
    source: Source,
    target: RunLocation,
    config: RunConfig,
    form: TileForm,
    *,
    rules: Exclusions = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_wait: Callable[[str], None] = logger.warning,
) -> TileSummary:
    """Write the pictures of `source` to `target`, cut by `form`, or as they are if they fit; or continue that.

    Of `config`, `source`, `images` and `placement.storage` are used. The rules of `images` and `rules` decide by the
    picture, before it is cut. `on_progress` is told how many tars are there, and of how many; `on_wait` who else writes
    to `target`, before a wait.

    Raises:
        ConfigError: The target holds other files, or was begun with another SOURCE or settings, or another process
            writes to it; or nothing is listed.
        TransientError: Storage failed, or SOURCE changed; the same call continues.
    """
    with RunLock.held(target, on_wait=on_wait) as lock:
        return _tiled(source, target, config, form, rules, lock.guarded(on_progress))


def _tiled(
    source: Source,
    target: RunLocation,
    config: RunConfig,
    form: TileForm,
    rules: Exclusions,
    on_progress: Callable[[int, int], None],
) -> TileSummary:
    of_images = {name: getattr(config.images, name) for name in ("bits", "window", "min_side", "decoder_plugins")}
    kept = {"images": of_images, "rules": sorted(rule.identity for rule in rules)}
    _claim(target, {"source": source.name, "form": [form.side_px, form.overlap_px], **kept})
    listed = ExcludedItems(rules)
    tars = [_tar_name(entries) for entries in _groups(source, listed)]
    listed.check_left(len(tars))
    stored = {file.name for file in target.list("")}
    if strangers := sorted(name for name in stored - {*tars} if TAR_NAME.fullmatch(name)):
        raise ConfigError(
            f"{target.uri(strangers[0])} is not of the pictures that {source.name} lists now: SOURCE has changed. Name "
            "an empty place for the tiles of what it lists now"
        )
    counted = zip(with_counts(rules, listed.counts()), listed.notices(), strict=True)
    telling = (text for rule, text in counted if rule.is_by_name and (not rule.num_excluded or rule.num_absent))
    summary = TileSummary(
        num_tars_before=sum(name in stored for name in tars),
        num_excluded=listed.total,
        notes=[*source.left_out.notices(), *telling],
    )
    on_progress(0, len(tars))
    limits = {name: max(least, getattr(config.images, name)) for name, least in _LIMITS.items()}
    images = config.images.model_copy(update=limits)
    with Prover(images.hashed(), form=form) as prover:
        cutter = _Cutter(source, config.model_copy(update={"images": images}), ExclusionMatcher(rules), prover)
        for name, entries in itertools.zip_longest(tars, _groups(source, ExcludedItems(rules))):
            if entries is None or _tar_name(entries) != name:
                raise TransientError(f"{source.name} changed while it was read: run the same command again")
            record = _read_record(target, name, _versions(entries)) if name in stored else None
            summary.add(record or cutter.write(target, name, entries))
            on_progress(summary.num_tars, len(tars))
    target.replace(UNTILED_NAME, json.dumps(summary.unread, indent=0).encode() + b"\n")
    return summary


def _claim(target: RunLocation, made_of: dict[str, object]) -> None:
    """Accept a place that is empty, or that this command began with the same SOURCE and settings."""
    data = json.dumps(made_of, indent=2).encode() + b"\n"
    found = target.read_if_there(TILES_NAME)
    if found is None:
        target.refuse_others(lambda name: name == LOCK_FOLDER, "Name an empty place for the tiles")
        target.create_once(TILES_NAME, data)
    elif found != data:
        raise ConfigError(
            f"{target.root} was begun with another SOURCE, --size, --overlap, --exclude, --only or images.*: "
            f"{target.uri(TILES_NAME)} has them. Give the same ones, or name another place"
        )
    else:
        # Unfinished files of a killed call may take gigabytes, and no listing shows them.
        target.delete_temporary("", RECORDS_FOLDER)
        for upload in list(target.list_uploads()):
            target.abort_upload(upload)


def _read_record(target: RunLocation, tar_name: str, versions: str) -> TarRecord | None:
    """Return the record of a tar; None if it is lost, damaged or of other `versions`: the tar is then written again."""
    data = target.read_if_there(_record_path(tar_name))
    with suppress(ValueError):
        record = None if data is None else TarRecord.model_validate(parse_json(data))
        return record if record and record.versions == versions else None
    return None


def _groups(source: Source, listed: ExcludedItems) -> Iterator[list[PlanEntry]]:
    entries = assign_shards(listed.kept(source.list()), _OF_A_TAR)
    return (list(group) for _, group in itertools.groupby(entries, key=lambda entry: entry.shard))


def _tar_name(entries: Sequence[PlanEntry]) -> str:
    listed = json.dumps([(entry.key, entry.size_bytes) for entry in entries])
    digest = sha256_hex(listed.encode())[:CONTENT_HASH_HEX_DIGITS]
    return f"tiles-{entries[0].shard:06d}-{digest}.tar"


def _versions(entries: Sequence[PlanEntry]) -> str:
    return sha256_hex(json.dumps([(entry.etag, entry.mtime_ns, entry.offset_bytes) for entry in entries]).encode())


def _record_path(tar_name: str) -> str:
    return f"{RECORDS_FOLDER}/{tar_name.removeprefix('tiles-').removesuffix('.tar')}.json"


@dataclass(frozen=True, slots=True)
class _Cutter:
    source: Source
    config: RunConfig
    matcher: ExclusionMatcher
    prover: Prover

    def write(self, target: RunLocation, name: str, entries: Sequence[PlanEntry]) -> TarRecord:
        """Write one tar, and its record before it."""
        outcomes = read_settled(self.source.name, self.config, entries)
        counts, left_out = Counter[str](), list[tuple[str, str, str]]()
        # Beside a new record no tar of other versions may stand, and DEST is not finished.
        for stale in (UNTILED_NAME, name):
            target.delete(stale)
        with new_file(target, name) as path:
            # GNU's format holds names of any length and bytes.
            with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for entry in entries:
                    start = tar.offset
                    try:
                        counts.update(self._add(tar, entry, outcomes.pop(entry.position)))
                    except ImageError as error:
                        # Some of its tiles may be written.
                        tar.offset = start
                        file.seek(start)
                        file.truncate()
                        left_out.append((entry.key, error.reason, error.message))
            record = TarRecord(**counts, versions=_versions(entries), left_out=tuple(left_out))
            target.replace(_record_path(name), record.model_dump_json(indent=1).encode() + b"\n")
        return record

    def _add(self, tar: tarfile.TarFile, entry: PlanEntry, outcome: Outcome) -> dict[str, int]:
        if isinstance(outcome, ImageError):
            raise outcome
        sha256 = sha256_hex(outcome)
        self.matcher.check(sha256)
        proof, tiles = self.prover.cut(outcome)
        self.matcher.check(sha256, proof.phash)
        num_tiles = 0
        for box, png in tiles:
            add_to_tar(tar, Tile(entry.key, box, proof.size).name, marked(png, sha256, str(proof.phash)))
            num_tiles += 1
        if num_tiles:
            return {"num_cut": 1, "num_tiles": num_tiles}
        add_to_tar(tar, _own_name(entry, outcome, self.config.images), outcome)
        return {"num_copied": 1}


def _own_name(entry: PlanEntry, data: bytes, images: ImagesConfig) -> str:
    """Return the name of a picture that is copied: its path; a member's below its tar, a row's below its table."""
    path, member = file_path(entry.key), entry.key.partition("!")[2]
    if entry.row is not None:
        return f"{path}/{entry.row}{file_suffix(data, images.decoder_plugins)}"
    return f"{path}/{unquote_to_bytes(member).decode('utf-8', 'surrogateescape')}" if member else path
