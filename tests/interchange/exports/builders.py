"""A run of real pictures whose truth is known beside its tables: what every export of it must say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from pseudoris.files.key_order import member_key, path_key, row_key
from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import ExportOptions, ExportReport, ExportRequest, export_job, find_export
from pseudoris.primitives.run_lengths import summarise_rle
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry, RunHeader
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord, ShardImage
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.annotations import AnnotatedImage
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.images import encode, oriented
from tests.builders.sources import entries_of, write_files
from tests.store.builders import HEIGHT, WIDTH, commit_images, empty, make_expression, make_mask, quarantined, start_run

LONG_TEXT = "a very small and rather round red thing that lies to the left of all of the other things over there"
# The upright picture: a left half and a right half that no turning confuses, and a mark in its upper left corner.
UPRIGHT = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
UPRIGHT[:, : WIDTH // 2], UPRIGHT[:, WIDTH // 2 :], UPRIGHT[:4, :4] = (200, 30, 30), (30, 30, 200), (30, 200, 30)


@dataclass(frozen=True)
class TrueMask:
    """A mask, its kept expressions and all its candidates, as they were put into the run."""

    pixels: np.ndarray
    texts: tuple[str, ...]
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrueImage:
    key: str
    masks: tuple[TrueMask, ...]

    @property
    def image_id(self) -> str:
        return image_id(self.key)


@dataclass(frozen=True)
class BuiltRun:
    location: RunLocation
    header: RunHeader
    truth: tuple[TrueImage, ...]

    def with_texts(self, keeps=lambda text: True) -> dict[str, list[TrueMask]]:
        """Return by image id the masks that keep an expression, and no image without one."""
        found = {}
        for image in self.truth:
            kept = [TrueMask(mask.pixels, tuple(filter(keeps, mask.texts))) for mask in image.masks]
            if left := [mask for mask in kept if mask.texts]:
                found[image.image_id] = left
        return found


def jpeg(orientation: int = 1, mode: str = "RGB") -> bytes:
    """Return the picture as a JPEG whose EXIF orientation makes it `UPRIGHT`."""
    turned = {1: UPRIGHT, 6: np.rot90(UPRIGHT), 3: UPRIGHT[::-1, ::-1]}[orientation]
    stored, options = Image.fromarray(np.ascontiguousarray(turned)).convert(mode), {"quality": 95, "subsampling": 0}
    return encode(stored, "JPEG", **options) if orientation == 1 else oriented(stored, orientation, "JPEG", **options)


def png(mode: str = "RGB") -> bytes:
    return encode(Image.fromarray(UPRIGHT).convert(mode))


# Key, encoded bytes, texts of each mask (a text that begins with "-" is a candidate that was not kept).
ImageFile = tuple[str, bytes, tuple[tuple[str, ...], ...]]
PICTURES: tuple[ImageFile, ...] = (
    (path_key("a/plain.jpg"), jpeg(), (("the red half", "a half of red"), ("the blue one's edge", "-a thing"))),
    (path_key("a/turned.jpg"), jpeg(6), (("the green corner",),)),
    (member_key("photos.tar", "../../etc/passwd"), png(), (("left || right", "the left part"), ("-a thing",))),
    (row_key("tables/more.parquet", 17), jpeg(mode="CMYK"), ((LONG_TEXT,), (LONG_TEXT, "the second mask"))),
    (path_key("b/plain.jpg"), png("RGBA"), (("||",),)),
    (path_key("a/naïve 50%.png"), png("P"), (("the half ünder \"quotes\" and 'more'",),)),
    (path_key("c/only long.jpg"), jpeg(), ((LONG_TEXT,),)),
    (path_key("c/nothing kept.jpg"), jpeg(), (("-a thing",),)),
)
EMPTY_KEY, QUARANTINED_KEY = "d/empty.jpg", "d/quarantined.jpg"


def build_run(
    place: RunLocation | Path,
    pictures: tuple[ImageFile, ...] = PICTURES,
    *,
    embed: bool = True,
    source: Path | None = None,
    per_shard: int = 3,
    settings: Sequence[str] = (),
    more: Callable[[str, Sequence[MaskRecord]], Iterable[ExpressionRecord]] = lambda key, masks: (),
) -> BuiltRun:
    """Commit a run of the pictures, an empty and a quarantined image.

    `embed` says whether the tables hold the encoded images. They are written into the folder `source`, if it is given,
    for keys that are plain paths. `settings` are the run's; `more` gives an image's expressions of several masks or of
    none.
    """
    location = _opened(place)
    files = {key: (data, texts) for key, data, texts in pictures}
    if source is not None:
        write_files(source, {key: data for key, (data, _) in files.items()})
    entries = entries_of((*files, EMPTY_KEY, QUARANTINED_KEY), per_shard=per_shard, source=source)
    header = start_run(location, entries, *settings, **({} if source is None else {"source": str(source)}))

    def image(entry: PlanEntry) -> ShardImage:
        if entry.key not in files:
            return quarantined(entry) if entry.key == QUARANTINED_KEY else empty(entry)
        made = _image(entry, *files[entry.key])
        return replace(made, expressions=(*made.expressions, *more(made.key, made.masks)))

    commit_images(location, header, image, embed_images=embed)
    truth = tuple(TrueImage(key, tuple(_true_masks(key, texts))) for key, _, texts in pictures)
    return BuiltRun(location, header, truth)


# What may refer to several masks or to none: an image's masks, the texts of each, then texts with their masks.
SEVERAL: tuple[ImageFile, ...] = (
    (
        path_key("a/three.jpg"),
        jpeg(),
        (("the left thing", "a thing"), ("a thing", 'the "middle" thing'), ("ünder it",)),
    ),
    (path_key("a/group.png"), png(), ((), ("a <image> of it", "the cup<|im_end|>", "to the [SEG] right"))),
    (path_key("b/one.jpg"), jpeg(6), (("a thing", "left || right"),)),
)
GROUPS = {
    "a/three.jpg": (("both things", (0, 1)), ("all of them", (2, 0, 1)), ("a green fork", ())),
    "a/group.png": (("the pair", (0, 1)),),
    "b/one.jpg": (("the left thing", ()), ("no <bbox> here", ())),
}


def groups_of(key: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the texts of several masks, or of none, of an image; a name of a combined run may stand before its key."""
    return next((said for name, said in GROUPS.items() if f"/{key}".endswith(f"/{name}")), ())


def combined_runs(folder: Path, **runs: BuiltRun) -> BuiltRun:
    """Combine runs by name, and return the truth of all of them under the new keys."""
    for run in runs.values():
        write_manifest(run.location)
    location = RunLocation.open(str(folder))
    combine([(name, run.location) for name, run in runs.items()], location)
    truth = (replace(each, key=f"{name}/{each.key}") for name, run in runs.items() for each in run.truth)
    return BuiltRun(location, require_header(location), tuple(truth))


def build_run_of_several(place: RunLocation | Path, **options) -> BuiltRun:
    """Commit a run with expressions of several masks and of none."""

    def more(key: str, masks: Sequence[MaskRecord]) -> Iterable[ExpressionRecord]:
        for text, places in groups_of(key):
            said = make_expression("", text)
            yield replace(said, target_mask_ids=tuple(masks[place].mask_id for place in places))

    return build_run(place, SEVERAL, more=more, **options)


@dataclass(frozen=True)
class TrueExpression:
    """An expression of the run of several, with its masks (H, W) bool in its order."""

    image_id: str
    text: str
    masks: tuple[np.ndarray, ...]

    @property
    def boxes(self) -> list[list[int]]:
        """Of the masks, [x0, y0, x1, y1], exclusive."""
        found = [(np.flatnonzero(each.any(0)), np.flatnonzero(each.any(1))) for each in self.masks]
        return [[int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1] for x, y in found]

    @property
    def union(self) -> np.ndarray:
        return np.logical_or.reduce(self.masks)


def true_expressions(run: BuiltRun) -> list[TrueExpression]:
    """Return all of them, an image's of one mask first."""
    found = []
    for image in run.truth:
        pixels = [mask.pixels for mask in image.masks]
        found += [TrueExpression(image.image_id, text, (mask.pixels,)) for mask in image.masks for text in mask.texts]
        found += [
            TrueExpression(image.image_id, text, tuple(pixels[place] for place in places))
            for text, places in groups_of(image.key)
        ]
    return found


def _records(key: str, texts: tuple[tuple[str, ...], ...]):
    """Return masks that overlap, each without its first pixel; a third has a hole and lies in two parts."""
    masks = [make_mask(image_id(key), n, (3 + n, 2, 9 + n, 7 + n)) for n in range(len(texts))]
    for mask in masks[2:]:
        pixels = coco.decode({"size": [HEIGHT, WIDTH], "counts": mask.rle_counts})
        pixels[4, 7:9], pixels[10, 3] = 0, 1
        counts = coco.encode(np.asfortranarray(pixels))["counts"].decode()
        found = summarise_rle(HEIGHT, WIDTH, counts)
        masks[mask.index] = replace(mask, rle_counts=counts, area_px=found.area_px, box_xyxy_px=found.box_xyxy_px)
    return masks


def _image(entry: PlanEntry, data: bytes, texts: tuple[tuple[str, ...], ...]) -> ShardImage:
    masks = _records(entry.key, texts)
    expressions = tuple(
        make_expression(mask.mask_id, text.removeprefix("-"), kept=not text.startswith("-"))
        for mask, of_mask in zip(masks, texts, strict=True)
        for text in of_mask
    )
    return replace(empty(entry), data=data, sha256=sha256_hex(data), masks=tuple(masks), expressions=expressions)


def _true_masks(key: str, texts: tuple[tuple[str, ...], ...]):
    for record, of_mask in zip(_records(key, texts), texts, strict=True):
        pixels = coco.decode({"size": [HEIGHT, WIDTH], "counts": record.rle_counts.encode()}).astype(bool)
        kept = tuple(text for text in of_mask if not text.startswith("-"))
        yield TrueMask(pixels, kept, tuple(text.removeprefix("-") for text in of_mask))


def request_for(
    run: BuiltRun, place: RunLocation | Path, *, is_overwriting: bool = False, target_bytes: int = 2**20, **options
) -> ExportRequest:
    chosen = ExportOptions(target_mb=target_bytes / 1e6, **options)
    opened = replace(OpenRun.at(run.location), header=run.header)
    return ExportRequest(opened, _opened(place), chosen, is_overwriting=is_overwriting)


def export(name: str, run: BuiltRun, destination: RunLocation | Path, **options) -> ExportReport:
    """Export with the format's default limit, unless `max_tokens` is given."""
    return find_export(name).write(request_for(run, destination, **options), lambda done, total, stage="": None)


def _opened(place: RunLocation | Path) -> RunLocation:
    return place if isinstance(place, RunLocation) else RunLocation.open(str(place))


def stored(root: Path | str) -> Counter[str]:
    """Return the paths of all files below a folder."""
    return Counter(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file())


def changed_tables(monkeypatch, change: Callable[[AnnotatedImage], AnnotatedImage]) -> None:
    """Read the images of tables as a run of another kind, an import or a later one, holds them."""
    real = export_job.iter_annotations
    monkeypatch.setattr(export_job, "iter_annotations", lambda *of, **options: map(change, real(*of, **options)))
