"""The complete run that another one is made from, pinned by the bytes of its last manifest."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.errors import ConfigError
from schemas.ids import sha256_hex
from schemas.run import ParentRun, PartRecord, Receipt, RunHeader
from store.commit import part_path
from store.location import RunLocation
from store.manifest import latest_snapshot, read_snapshot, snapshot_path, snapshot_sha256
from store.receipts import list_receipts


def pin_parent(location: RunLocation, header: RunHeader) -> ParentRun:
    """Return the run at `location`, pinned: what is retried or extended there later changes nothing for its child.

    Raises:
        ConfigError: It is not complete, or its last manifest does not hold what stands.
        TransientError: Storage failed, or the manifest does not read.
    """
    standing = list_receipts(location)
    if len(standing) < header.num_shards:
        raise ConfigError(
            f"{location.root} is not complete, {len(standing):,} of {header.num_shards:,} shards are committed: finish "
            f"it with the `{header.origin}` command that began it"
        )
    number = latest_snapshot(location)
    pinned = {} if number is None else {each.shard: each.generation for each in read_snapshot(location, number)}
    if number is None or pinned != standing:
        raise ConfigError(
            f"the last manifest of {location.root} does not hold all that is committed: give the `{header.origin}` "
            "command that began it once more, which writes it"
        )
    return ParentRun(
        location=location.root,
        created_utc=header.created_utc,
        manifest=number,
        manifest_sha256=snapshot_sha256(location, number),
    )


def check_parent(location: RunLocation, header: RunHeader, pinned: ParentRun) -> None:
    """Accept the run of `header` at `location` where it is the one that `pinned` names, wherever it stands now.

    Raises:
        ConfigError: It is another one.
        TransientError: Storage failed.
    """
    if header.created_utc != pinned.created_utc:
        differs = f"that one was created at {pinned.created_utc}, this one at {header.created_utc}"
    else:
        try:
            digest = snapshot_sha256(location, pinned.manifest)
        except FileNotFoundError:
            digest = "none"
        if digest == pinned.manifest_sha256:
            return
        differs = f"{snapshot_path(pinned.manifest)} has sha256 {pinned.manifest_sha256} there and {digest} here"
    raise ConfigError(
        f"this output was begun out of another run, {pinned.location}, than {location.root}: {differs}. Give that one "
        "to continue, or name another output"
    )


def parent_receipts(location: RunLocation, pinned: ParentRun) -> Iterator[Receipt]:
    """Yield the receipts that stood when the parent was pinned, ordered by shard, a few held at once.

    Raises:
        TransientError: Storage failed, or the manifest does not read.
    """
    return read_snapshot(location, pinned.manifest)


def parent_part(location: RunLocation, table: str, part: PartRecord) -> bytes:
    """Return a part of the parent, whole and as its receipt names it.

    Raises:
        ConfigError: It is gone or damaged.
        TransientError: Storage failed.
    """
    path = part_path(table, part)
    try:
        data = location.read_bytes(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{location.uri(path)} is gone: quarantined images were retried there since, or it was deleted. Name "
            "another output, to begin anew with what stands in the parent now"
        ) from None
    if sha256_hex(data) != part.sha256:
        raise ConfigError(f"{location.uri(path)} is damaged: run `pseudoris verify {location.root}` for the extent")
    return data
