"""Checks manifests, replaced receipts and stray files for `verification.py`. What no reader uses is only a notice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pseudoris.files.location import PROBE_NAME, RunLocation
from pseudoris.files.storage import shown_uri
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.run_records import HEADER_NAME, MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER, Receipt, RunHeader
from pseudoris.store.checks.content import Problem
from pseudoris.store.exclusion_rules import plan_files
from pseudoris.store.reports.data_card import BESIDE_NAME, CARD_NAME, CITATION_NAME, is_generated
from pseudoris.store.runs.attempts import ATTEMPT_NAME, ATTEMPTS_FOLDER
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME
from pseudoris.store.runs.garbage import is_driven, list_unfinished
from pseudoris.store.runs.header import EXTENSION_NAME
from pseudoris.store.runs.lock import CLAIM_NAME, LOCK_FOLDER
from pseudoris.store.runs.manifest import SNAPSHOT_NAME, manifest_numbers, read_snapshot, snapshot_damage, snapshot_path
from pseudoris.store.runs.plan import MOVED
from pseudoris.store.runs.receipts import commit_of_name, foreign_receipt, try_read_receipts

_PLAN_GENERATION: Final = re.compile(rf"[g{MOVED}]\d{{4}}")
_TOP_NAMES: Final = frozenset({HEADER_NAME, CARD_NAME, BESIDE_NAME, CITATION_NAME, LEFT_OUT_NAME})
# Maps each folder of records to a function that is true for the file names that a run writes there.
_RECORDS: Final[Mapping[str, Callable[[str], object]]] = {
    "": lambda name: name in _TOP_NAMES or PROBE_NAME.fullmatch(name),
    RECEIPTS_FOLDER: commit_of_name,
    MANIFEST_FOLDER: SNAPSHOT_NAME.match,
    PLAN_FOLDER: EXTENSION_NAME.match,
    ATTEMPTS_FOLDER: ATTEMPT_NAME.match,
    LOCK_FOLDER: CLAIM_NAME.match,
}


def replaced_receipt_problems(
    location: RunLocation, replaced: Sequence[tuple[int, int]], known: frozenset[str]
) -> Iterator[Problem]:
    """Yield the problems of receipts that later generations of their shards replaced. They stay, as the run's history.

    `replaced` are their shards and generations, `known` the `digests` of the run's header.
    """
    for (shard, generation), receipt in zip(replaced, try_read_receipts(location, replaced), strict=True):
        if isinstance(receipt, ConfigError):
            yield Problem(shard, "receipt", str(receipt))
        elif receipt is not None and receipt.header_sha256 not in known:
            yield Problem(shard, "receipt", foreign_receipt(location, shard, generation))


class Manifests:
    """Holds the snapshots of a run to their own digests, and the latest one to the receipts."""

    def __init__(self, location: RunLocation) -> None:
        self.problems = [
            Problem(None, "manifest", f"{MANIFEST_FOLDER}/{name} is {what}, not a manifest: move it out")
            for name, what in location.list_obstacles(MANIFEST_FOLDER)
            if SNAPSHOT_NAME.match(name)
        ]
        self._rows: Iterator[Receipt] = iter(())
        for number in manifest_numbers(location):
            damage = snapshot_damage(location, number)
            if damage is not None:
                self.problems.append(Problem(None, "manifest", damage))
            self._rows = read_snapshot(location, number) if damage is None else iter(())
            self._path = snapshot_path(number)
        self._ahead = next(self._rows, None)

    def compare(self, receipt: Receipt) -> Iterator[Problem]:
        """Yield a problem if the latest snapshot has another row of the receipt. Pass the receipts in order."""
        while self._ahead is not None and self._ahead.shard < receipt.shard:
            self._ahead = next(self._rows, None)
        ours = self._ahead
        is_listed = ours is not None and (ours.shard, ours.generation) == (receipt.shard, receipt.generation)
        if is_listed and ours != receipt:
            detail = f"{self._path} shows another receipt of the shard: delete the manifest, the receipts are complete"
            yield Problem(receipt.shard, "manifest", detail)


def card_notices(location: RunLocation) -> Iterator[str]:
    """Yield a sentence if the data card is not as the run wrote it: a person may edit it."""
    try:
        card = location.read_bytes(CARD_NAME)
    except (FileNotFoundError, ConfigError):
        if what := location.obstacle(CARD_NAME):
            yield f"{CARD_NAME} is {what}"
        return
    if not is_generated(card):
        yield f"{CARD_NAME} was edited"


def junk_notices(location: RunLocation, header: RunHeader) -> Iterator[str]:
    """Yield a sentence for each file among the records that is not one, and for each file of a killed writer.

    Nothing reads them, so they are not problems. Folders beside the tables may be exports, galleries and the like.
    """
    for folder, is_record in _RECORDS.items():
        for name in _names(location, folder):
            if not is_record(name):
                yield f"{_shown(folder, name)} is an unexpected file. No reader of the run uses it. Move it out"
    # An unfinished file may belong to a running driver, so the list `late` is reported only if no driver runs.
    late = [
        f"{_shown('', path)} is of a killed writer. gc deletes it when it is an hour old"
        for path, _ in list_unfinished(location)
    ]
    planned = {part.name for part in plan_files(header)}
    for generation, _ in location.list_obstacles(PLAN_FOLDER):
        if _PLAN_GENERATION.fullmatch(generation):
            late += [
                f"{_shown(f'{PLAN_FOLDER}/{generation}', name)} is in no header of the plan. Readers that glob its "
                "folder will include it. Move it out"
                for name in _names(location, f"{PLAN_FOLDER}/{generation}")
                if f"{generation}/{name}" not in planned
            ]
    if late and not is_driven(location):
        yield from late


def _names(location: RunLocation, folder: str) -> Iterator[str]:
    """Yield the names of all that is directly in a folder of records, without the folders that may be there."""
    yield from (file.name for file in location.list(folder))
    for name, what in location.list_obstacles(folder):
        is_allowed = not folder or (folder == PLAN_FOLDER and _PLAN_GENERATION.fullmatch(name))
        if what != "a folder" or not is_allowed:
            yield name


def _shown(folder: str, name: str) -> str:
    return shown_uri(f"{folder}/{name}" if folder else name)
