"""The images of a run that an export leaves out: by `--exclude`, or because merged human references show them too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.exclusion_records import exclusions_of
from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.schemas.tables import IMAGES, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.sources.exclusions import ContentMatcher, Exclusions, RecordedImageMatcher
from pseudoris.store.tables.annotations import AnnotatedImage
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.exports.selected_rows import with_source_bytes

UNCHECKED: Final = "images that could not be compared with the excluded ones: missing from SOURCE, or changed there"
_COLUMNS: Final = ("image_id", "key", "height", "width", "status", "sha256")


class ExcludedImages:
    """Finds the images of a shard that rules exclude. Rules that the run was planned with are done already."""

    def __init__(
        self, run: RunLocation, header: RunHeader, exclusions: Exclusions, *, source: str | None = None
    ) -> None:
        """Wire it; `source` says where the images are now, None uses the header's SOURCE."""
        record = exclusions_of(header)
        rules = exclusions.without(record.rules if record else ())
        self._run, self._header, self._source = run, header, source
        self._rules = rules.rules
        self._recorded, self._contents = RecordedImageMatcher(rules), ContentMatcher(rules)

    def __bool__(self) -> bool:
        """Return whether there is a rule that the run does not have."""
        return bool(self._rules)

    def of_shard(self, receipt: Receipt) -> dict[str, str]:
        """Return by image id what the list of dropped things calls an image that is left out.

        With a rule by perceptual hash it reads and decodes every image. One that cannot be compared is left out too.

        Raises:
            ConfigError: A part, or SOURCE as a whole, is missing.
            TransientError: Storage failed.
        """
        if not self:
            return {}
        columns = (*_COLUMNS, "bytes") if self._contents.has_hashes else _COLUMNS
        rows = read_table(self._run, IMAGES, columns, [receipt]).to_pylist()
        found: dict[str, str] = {}
        for row in rows:
            number = self._recorded.rule_of(row["key"], row["sha256"])
            if number is not None:
                found[row["image_id"]] = self._rules[number].dropped_phrase
        if self._contents.has_hashes:
            rest = [row for row in rows if row["image_id"] not in found and row["status"] != STATUS_QUARANTINED]
            found.update(self._by_hash([_image(receipt.shard, row) for row in rest]))
        return found

    def _by_hash(self, images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
        unchecked = {image.image_id for image in images}
        for image in with_source_bytes(self._run, self._header, images, Counter(), source=self._source):
            try:
                phash = perceptual_hash(decode_upright(image.data or b"", self._header.config.images))
            except ImageError:
                continue
            unchecked.discard(image.image_id)
            number = self._contents.rule_of(image.sha256, phash)
            if number is not None:
                yield image.image_id, self._rules[number].dropped_phrase
        yield from ((each, UNCHECKED) for each in sorted(unchecked))


def _image(shard: int, row: dict[str, Any]) -> AnnotatedImage:
    sizes = {name: row[name] for name in ("image_id", "key", "height", "width", "sha256")}
    return AnnotatedImage(shard=shard, data=row.get("bytes"), masks=(), **sizes)
