"""Small runs to test against: every default is safe, so that a test names only what matters to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partialmethod

import numpy as np
from pycocotools import mask as coco

from pseudoris.files.local_storage import LocalStorage
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.run_records import Identity, PlanEntry, PlanExtension, Receipt, RunHeader
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, Shard, ShardImage
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.commit import NOWHERE, Provenance, commit_shard
from pseudoris.store.runs.header import create_extension, create_header
from pseudoris.store.runs.plan import read_shard_plan, write_plan

HEIGHT, WIDTH = 12, 20


def make_entries(num_shards: int = 3, per_shard: int = 4, first_shard: int = 0) -> list[PlanEntry]:
    """Return a plan of `num_shards` times `per_shard` images."""
    return [
        PlanEntry(shard, position, image_id(f"s{shard}/{position}.png"), f"s{shard}/{position}.png", 100, None, 5)
        for shard in range(first_shard, first_shard + num_shards)
        for position in range(per_shard)
    ]


def make_identity(**changes: object) -> Identity:
    config = load_config("tiny")
    fields = {"method": config.method(), "weights": {"propose": "a" * 64}, "device_kind": "cpu", "versions": {"x": "1"}}
    return Identity.model_validate({**fields, **changes})


def start_run(
    location: RunLocation, entries: Iterable[PlanEntry] | None = None, *settings: str, **changes: object
) -> RunHeader:
    """Write a plan and its header; `settings` as `filtering.tau=1.1`, `changes` of the header's other fields."""
    entries = make_entries() if entries is None else list(entries)
    config = load_config("tiny", None, list(settings))
    header = RunHeader(
        source="images/",
        created_utc="2026-01-01T00:00:00Z",
        plan_parts=write_plan(location, entries),
        num_images=len(entries),
        num_repeated=0,
        num_shards=len({entry.shard for entry in entries}),
        identity=make_identity(),
        config=config,
        config_sha256=config_hash(config),
    )
    return create_header(location, header.model_copy(update=changes))


def extend_run(
    location: RunLocation, header: RunHeader, entries: list[PlanEntry], *, number: int = 2, num_repeated: int = 0
) -> RunHeader:
    """Add `entries` to the plan of a run, and return its header with them."""
    extension = PlanExtension(
        number=number,
        created_utc="2026-01-02T00:00:00Z",
        plan_parts=write_plan(location, entries, generation=number),
        num_images=len(entries),
        num_repeated=num_repeated,
        num_shards=len({entry.shard for entry in entries}),
        header_sha256=header.sha256,
    )
    return create_extension(location, extension)


def make_mask(image: str, index: int = 0, box: tuple[int, int, int, int] = (3, 2, 9, 7)) -> MaskRecord:
    """Return a rectangle without its first pixel, as a mask of a HEIGHT x WIDTH image."""
    x0, y0, x1, y1 = box
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y0:y1, x0:x1] = 1
    pixels[y0, x0] = 0
    counts = coco.encode(pixels)["counts"].decode("ascii")
    area = int(pixels.sum())
    return MaskRecord(mask_id(image, index), index, (HEIGHT, WIDTH), counts, box, area, 0.9, 0.95)


def make_expression(target: str, text: str = "the red circle", rival: str | None = None, **changes) -> ExpressionRecord:
    samples = (
        CaptionSample("masked", "beam", None, None, -3.5, "none", 0),
        CaptionSample("context_1.2", "top_p", None, 0.4, -2.25, "all", 1),
    )
    scores = {"uniqueness": 1.2, "distinctiveness": 1.1, "rival_mask_id": rival} if rival else {}
    fields = {"head_noun": "circle", "correctness": 0.5, "kept": True, **scores, **changes}
    return ExpressionRecord((target,), text, samples, **fields)


def annotated(entry: PlanEntry, num_masks: int = 2) -> ShardImage:
    """Return an image with masks that are each other's rivals and two candidates a mask, one of them kept."""
    boxes = [(3 + n, 2, 9 + n, 7) for n in range(num_masks)]
    masks = tuple(make_mask(entry.image_id, n, box) for n, box in enumerate(boxes))
    expressions = []
    for n, mask in enumerate(masks):
        rival = masks[(n + 1) % num_masks].mask_id if num_masks > 1 else None
        expressions.append(make_expression(mask.mask_id, rival=rival))
        weaker = {"distinctiveness": 0.9, "kept": False} if rival else {}
        expressions.append(make_expression(mask.mask_id, "a circle", rival=rival, **weaker))
    return replace(empty(entry), masks=masks, expressions=tuple(expressions))


def empty(entry: PlanEntry) -> ShardImage:
    data = f"pixels of {entry.key}".encode()
    return ShardImage(
        entry.position, entry.image_id, entry.key, data, sha256=sha256_hex(data), height=HEIGHT, width=WIDTH
    )


def quarantined(entry: PlanEntry, reason: str = "corrupt") -> ShardImage:
    return empty(entry).quarantined(Failure("read", reason, "The bytes end in the middle of the image."))


def make_shard(entries: list[PlanEntry], generation: int = 0) -> Shard:
    """Return a finished shard whose images are, in turn: annotated, alone, empty, quarantined."""
    kinds = (annotated, lambda entry: annotated(entry, 1), empty, quarantined)
    images = tuple(kinds[n % len(kinds)](entry) for n, entry in enumerate(entries))
    return Shard(entries[0].shard, generation, images, {"propose": 1.5, "caption": 2.0}, ("node-a",))


def commit_images(
    location: RunLocation,
    header: RunHeader,
    image_of: Callable[[PlanEntry], ShardImage],
    *shards: int,
    generation: int = 0,
    embed_images: bool = False,
    **fields,
) -> list[Receipt]:
    """Commit shards, all by default, of the images that `image_of` makes of the plan's entries, with further fields."""
    receipts = []
    for number in shards or range(header.num_shards):
        images = tuple(map(image_of, read_shard_plan(location, header, number)))
        receipts.append(
            commit_made(location, header, Shard(number, generation, images, **fields), embed_images=embed_images)
        )
    return receipts


def commit_made(
    location: RunLocation,
    header: RunHeader,
    shard: Shard,
    *,
    write: Callable[..., Receipt] = commit_shard,
    provenance: Provenance = NOWHERE,
    **options,
) -> Receipt:
    """Commit a finished shard as a run's committer does, or `write` it as a retry."""
    options = {"embed_images": True, "provenance": replace(provenance, header_sha256=header.sha256), **options}
    ids = [entry.image_id for entry in read_shard_plan(location, header, shard.shard)]
    return write(location, shard, planned_ids=ids, **options)


def commit(location: RunLocation, header: RunHeader, *shards: int, generation: int = 0, **options) -> list[Receipt]:
    """Commit finished shards of the run."""
    made = (make_shard(read_shard_plan(location, header, number), generation) for number in shards)
    return [commit_made(location, header, shard, **options) for shard in made]


def whats(found) -> list[str]:
    """Return the kinds of problems, or of those of a report of `verify`."""
    return [problem.what for problem in getattr(found, "problems", found)]


def parts(location: RunLocation, *more: str) -> dict[str, bytes]:
    """Return the files in the folders of all tables, and in further ones, by their paths."""
    paths = [f"{folder}/{file.name}" for folder in (*SCHEMAS, *more) for file in location.list(folder)]
    return {path: location.read_bytes(path) for path in paths}


def setting(row: int, **values) -> Callable[[list[dict]], object]:
    """Return an edit of a table's rows: one of them has other values."""
    return lambda rows: rows[row].update(values)


@contextmanager
def killed_at_write(number: int, monkeypatch) -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt at that write to a disk in the block, and at all after it; swallow it where it ends.

    Gives what tells whether the block came so far.
    """
    left = [number]

    def die(files, path, data, *, write):
        # The lock is written by threads of its own, and has tests of its own.
        is_lock = path.startswith("_lock/")
        left[0] -= not is_lock
        if left[0] <= 0 and not is_lock:
            raise KeyboardInterrupt
        return write(files, path, data)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        for name in ("put", "create_once"):
            patch.setattr(LocalStorage, name, partialmethod(die, write=getattr(LocalStorage, name)))
        yield lambda: left[0] <= 0
