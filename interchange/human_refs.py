"""A REFER dataset's human references, chosen by split, for an export with `--merge-human`. Called by `exports`.

Files are untrusted: names, sizes, ids and masks are checked. Users of `pseudoris.export` depend on `HumanAnnotation`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PureWindowsPath
from typing import Any, Final

from pseudoris.files.storage import storage_errors
from pseudoris.interchange.untrusted_pickle import read_refs
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.rle import compressed_counts
from pseudoris.primitives.run_lengths import summarise_rle
from pseudoris.primitives.untrusted import parse_json, read_regular
from pseudoris.primitives.uris import place
from pseudoris.schemas.shard import is_blank
from pseudoris.store.exclusion_rules import Exclusions, exclusion, name_value

WITHOUT_TEXT: Final = "human sentences without a text"
WITHOUT_SENTENCE: Final = "human references without a sentence"

# Longer sides are refused: no JPEG has one, and pycocotools, which counts in 32 bits, may end the process.
_MAX_SIDE_PX: Final = 65_535
# The name of a file cannot have these characters.
_UNWRITABLE: Final = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class HumanAnnotation:
    """A REFER dataset whose human references join an export.

    Attributes:
        refs: Local path of its `refs(<splitBy>).p`.
        instances: Local path of its `instances.json`.
        splits: Which references: those of these splits.
        images: Local folder of its images, to be copied into the export; None leaves them where they are.
    """

    refs: str
    instances: str
    splits: tuple[str, ...] = ("val", "test", "testA", "testB")
    images: str | None = None

    def __post_init__(self) -> None:
        # Paths are converted to text, because an export records them as JSON.
        for name in ("refs", "instances", "images"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, place(given, name))


@dataclass(frozen=True, slots=True)
class HumanRefs:
    """References of a REFER dataset, without empty sentences, with the images and annotations that they name, by id.

    `folder` holds the images, and is None if they are not to be copied; `dropped` is what was left out, by reason.
    """

    refs: Sequence[Mapping[str, Any]] = ()
    images: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    annotations: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    categories: Sequence[Mapping[str, Any]] = ()
    folder: Path | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def free_category_id(self) -> int:
        """An id that no category of theirs has."""
        return max((int(category["id"]) for category in self.categories), default=0) + 1

    @property
    def exclusions(self) -> Exclusions:
        """The run's images that they show too, by name or COCO id; no rule without references."""
        names = [name_value(str(image["file_name"])) for image in self.images.values()]
        return exclusion("refer", "--merge-human", names) if names else ()

    def renumbered(
        self, image_ids: Mapping[int, int], *, num_masks: int = 0, num_texts: int = 0
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield each annotation with its references, under new ids; other keys are as in the files.

        `image_ids` are the new ids of images by their old ones. Annotations and references are numbered behind the
        `num_masks` of the run, of which each has one reference, and sentences behind its `num_texts`.
        """
        annotation_ids, ref_ids, sentence_ids = count(1 + num_masks), count(1 + num_masks), count(1 + num_texts)
        by_annotation: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for ref in self.refs:
            by_annotation[ref["ann_id"]].append(ref)
        for old, refs in by_annotation.items():
            found = self.annotations[old]
            ids = {"ann_id": next(annotation_ids), "image_id": image_ids[found["image_id"]]}
            renumbered = []
            for ref in refs:
                sentences = [
                    {
                        **each,
                        "raw": each["raw"] if _is_text(each.get("raw")) else each["sent"],
                        "tokens": each.get("tokens") or str(each["sent"]).split(),
                        "sent_id": next(sentence_ids),
                    }
                    for each in ref["sentences"]
                ]
                sent_ids = [sentence["sent_id"] for sentence in sentences]
                own = {"ref_id": next(ref_ids), **ids, "sent_ids": sent_ids, "sentences": sentences}
                renumbered.append({**ref, **own})
            yield {**found, "id": ids["ann_id"], "image_id": ids["image_id"]}, renumbered

    def image_bytes(self, file_name: str) -> bytes:
        """Return the encoded bytes of one of the images in `folder`; ConfigError if it is not there."""
        path = (self.folder or Path()) / file_name
        try:
            with storage_errors("read", str(path)):
                return read_regular(path)
        except FileNotFoundError:
            raise ConfigError(
                f"There is no image {path}, but the merged references need it. Name the folder of their images with "
                "--merge-images, or leave this option out and copy the images yourself."
            ) from None


def read_human(human: HumanAnnotation | None) -> HumanRefs:
    """Return the references to merge, in memory; nothing for None. What a loader cannot read is a ConfigError."""
    if human is None:
        return HumanRefs()
    dropped: Counter[str] = Counter()
    found = read_refs(Path(human.refs))
    wanted = [each for each in found if each["split"] in human.splits]
    refs = [ref for ref in (_cleaned(each, dropped, human.refs) for each in wanted) if ref]
    if not refs:
        held = ", ".join(sorted({str(each["split"]) for each in found})) or "none"
        raise ConfigError(f"{human.refs} has no reference of {', '.join(human.splits)}. Its splits are: {held}")
    tree = _read_instances(Path(human.instances))
    image_ids, annotation_ids = {ref["image_id"] for ref in refs}, {ref["ann_id"] for ref in refs}
    images = _named(human, tree["images"], image_ids, "image")
    annotations = _named(human, tree["annotations"], annotation_ids, "annotation")
    names = Counter(str(image.get("file_name", "")) for image in images.values())
    for image in images.values():
        name = str(image.get("file_name", ""))
        if names[name] > 1:
            raise ConfigError(f"{human.instances} has several images of the name {name!r:.100}. Give each its own.")
        if name != PureWindowsPath(name).name or name in ("", ".", "..") or _UNWRITABLE.search(name):
            raise ConfigError(
                f"{human.instances} names the image {name!r:.100}. A file name without folders, in UTF-8, is needed."
            )
        if not all(type(image.get(side)) is int and 0 < image[side] <= _MAX_SIDE_PX for side in ("height", "width")):
            raise ConfigError(
                f"{human.instances}: image {image['id']} ({name:.100}) does not say its height and width, of 1 to "
                f"{_MAX_SIDE_PX:,} pixels each. Correct the file."
            )
    for category in tree["categories"]:
        try:
            int(category["id"])
        except (LookupError, TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{human.instances}: category {category!r:.100} has no number as id. Give it one, or leave it out."
            ) from None
    annotations = {key: _checked(human, each, images) for key, each in annotations.items()}
    folder = None if human.images is None else Path(human.images)
    return HumanRefs(refs, images, annotations, tree["categories"], folder, dropped)


def _cleaned(ref: Mapping[str, Any], dropped: Counter[str], name: str) -> dict[str, Any] | None:
    """Return the reference without empty sentences, at which a trainer may fail; None if no sentence is left."""
    sentences = ref["sentences"]
    if not isinstance(sentences, list) or not all(isinstance(each, dict) and "sent" in each for each in sentences):
        raise ConfigError(f"{name}: reference {ref['ref_id']} has a sentence without `sent`, which loaders need")
    kept = [each for each in sentences if _is_text(each["sent"])]
    dropped[WITHOUT_TEXT] += len(ref["sentences"]) - len(kept)
    dropped[WITHOUT_SENTENCE] += not kept
    return {**ref, "sentences": kept} if kept else None


def _read_instances(path: Path) -> dict[str, Any]:
    try:
        with storage_errors("read", str(path)):
            tree = parse_json(read_regular(path))
        return {name: list(tree[name]) for name in ("images", "annotations", "categories")}
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}. A REFER dataset has an instances.json beside its refs.") from None
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{path} is not an instances.json with images, annotations and categories: {error!r}"
        ) from error


def _named(human: HumanAnnotation, rows: Sequence[Any], ids: set[Any], kind: str) -> dict[int, Any]:
    """Return the rows of these ids; a ConfigError if one of them has no row."""
    with_id = (row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int | str))
    found = {row["id"]: row for row in with_id if row["id"] in ids}
    if missing := ids - found.keys():
        raise ConfigError(
            f"{human.refs} names {len(missing):,} {kind}(s) that are not in {human.instances}, the first with id "
            f"{min(missing, key=lambda each: (isinstance(each, str), each))}. Give the two files of one dataset."
        )
    return found


def _checked(
    human: HumanAnnotation, annotation: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the annotation with its mask in a form that REFER's loader decodes: polygons, or an RLE in a list."""
    where = f"{human.instances}: annotation {annotation['id']}"
    named = annotation.get("image_id", -1)
    image = None if isinstance(named, list | dict) else images.get(named)
    if image is None:
        raise ConfigError(
            f"{where} is of image {named!r:.100}, another image than its reference. Give the two files of one dataset."
        )
    segmentation = annotation.get("segmentation")
    size = (image["height"], image["width"])
    try:
        counts = counts_of(segmentation, size)
    except ValueError as error:
        raise ConfigError(
            f"{where} has no mask that loaders decode ({error}). Fix it, or leave its split out."
        ) from error
    is_of_polygons = isinstance(segmentation, list) and isinstance(segmentation[0], list | tuple)
    return annotation if is_of_polygons else {**annotation, "segmentation": [{"size": [*size], "counts": counts}]}


def counts_of(segmentation: Any, size: tuple[int, int]) -> str:
    """Return the encoding of a mask in any form that REFER has; a ValueError says what is wrong with it."""
    counts = compressed_counts(segmentation, size)
    if counts is None or not summarise_rle(*size, counts).area_px:
        raise ValueError("no polygon, or a mask without pixels")
    return counts


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not is_blank(value)
