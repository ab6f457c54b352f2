"""What all formats share: `ExportFormat`, an entry of the table of formats, and `ExportJob`, one export on its way.

Called by every format. A format takes images from its job, writes them, and gives the job each record as it was meant
and as it reads once it is written (`add`). The job counts and compares. At the end it reads what is stored once, and
marks the export as whole only if its bytes are those that were written.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from pseudoris.files.parquet_files import open_writer
from pseudoris.interchange.exports.croissant import CROISSANT_NAME, Tables, description
from pseudoris.interchange.exports.destination import (
    EXPORT_NAME,
    STORED,
    claim_destination,
    mark,
    stored_files,
    unmark_empty,
)
from pseudoris.interchange.exports.export_options import MAX_NAMED, ExportReport, ExportRequest
from pseudoris.interchange.exports.image_files import image_file_of
from pseudoris.interchange.exports.output_files import JsonArray, ManyFiles, check_file, json_arrays, new_file
from pseudoris.interchange.exports.record import Content, ExportExpression, ExportImage, ExportMask, Fingerprint, broken
from pseudoris.interchange.exports.selected_rows import (
    UNREADABLE,
    WITHOUT_SPLIT,
    Selection,
    TextRule,
    with_source_bytes,
)
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.untrusted import file_sha256, printable_json, without_secrets
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.store.runs.lock import RunLock, TakenOverError
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import CommittedShard

logger = logging.getLogger(__name__)

_PROGRESS_EVERY: Final = 100
_OF_TILE: Final = ("picture", "picture_size", "tile_xyxy_px")
WRITING: Final = "writing"
CHECKING: Final = "reading back"
_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+")
_DECODED: Final = "every record, decoded before it was stored, has the run's masks and expressions, in order"


class OnProgress(Protocol):
    """Receives the progress of an export."""

    def __call__(self, done: int, total: int, /, stage: str = WRITING) -> None:
        """Take how much of a stage is done, and the total: rows, images or files."""


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format. A killed export leaves no half file under a final name; the same call writes all of it anew.

    Attributes:
        name: As in `--format`, and in the record of the export.
        summary: One line for the help.
        writer: Writes an export, checks it, and reports.
        takes: Which masks and texts; its trainers cut texts at `max_tokens`, the default limit.
        reads: Names of the fields of `ExportOptions` that it reads.
        extra: Extra of the package that its writer needs.
        has_one_split: Whether its readers know no splits, so that an export has one.
    """

    name: str
    summary: str
    writer: Callable[[ExportJob], ExportReport]
    takes: TextRule = field(default_factory=TextRule)
    reads: tuple[str, ...] = ("max_tokens",)
    extra: str | None = None
    has_one_split: bool = False

    def write(
        self, request: ExportRequest, on_progress: OnProgress, on_wait: Callable[[str], None] = logger.warning
    ) -> ExportReport:
        """Write the export, check it, and return what it holds; `on_wait` is told of another owner of the destination.

        Raises:
            ConfigError: The destination holds something else, or cannot be written; another process writes there, or
                took over; an option is not possible.
            TransientError: A record decodes to something else than it was made from, or is stored with other bytes.
        """
        job = ExportJob(self, request, on_progress, on_wait)
        with job.held:
            try:
                with job.files:
                    found = self.writer(job)
            except TakenOverError:
                raise
            except ConfigError:
                job.give_back()
                raise
        said = f"{job.num_further:,} further sentences by --rewording. Most openings are left out."
        return replace(found, notes=[*found.notes, said]) if job.options.rewording else found


class ExportJob:
    """One export on its way.

    Attributes:
        splits: Names of the splits that are written; with `has_splits` each image has its own.
        rule: Which masks and texts: what the format takes, within what the user asks for.
        dropped: What was left out, by reason.
        num_images: Images that `images` yielded.
        unmatched: What to say of exclusions that no image matched.
        lacking: Keys by id of the images that were left out because they cannot be read.
        num_further: Sentences that say an expression in other words.
        files: Writes many small files.
        size_bytes: Size of all files that were not written by `files`.
        single_files: sha256 by path of these.
        held: The lock of the destination, from `claim` on.
        give_back: Leaves the destination to others if no file was written; does nothing before `claim`.
    """

    def __init__(
        self,
        export_format: ExportFormat,
        request: ExportRequest,
        on_progress: OnProgress,
        on_wait: Callable[[str], None] = logger.warning,
    ) -> None:
        """Begin with nothing written."""
        self.request, self.options, self.destination = request, request.options, request.destination
        self.splits, self.has_splits = request.splits, request.has_splits
        self.on_progress, self.on_wait = on_progress, on_wait
        self.dropped: Counter[str] = Counter()
        self.written, self.files = Fingerprint(), ManyFiles(self.destination)
        self.num_images = self.size_bytes = self.num_further = self._num_encoded_anew = self._num_done = 0
        self.single_files: dict[str, str] = {}
        self.held = ExitStack()
        self.give_back: Callable[[], None] = lambda: None
        self._prove_owner: Callable[[], None] = lambda: None
        self._stored: Callable[[], Iterator[tuple[str, int]]] = lambda: iter(())
        self.lacking = dict[str, str]()
        self._given, self.unmatched = request.exclusions, list[str]()
        self._mask_numbers, self._text_numbers = count(1), count(1)
        self.name, takes, limit = export_format.name, export_format.takes, request.options.max_tokens
        self.rule = replace(
            takes,
            with_groups=takes.with_groups or request.options.any_targets,
            with_none=takes.with_none or request.options.any_targets,
            max_tokens=takes.max_tokens if limit is None else limit or None,
            is_distinctive_only=self.options.distinctive_only,
        )
        extra, what = export_format.extra, f"`--format {self.name}`"
        if self.rule.max_tokens is not None:
            extra = f"{extra},run" if extra else "run"
            what += " (its limit of CLIP tokens needs the extra run; --max-tokens 0 lifts it)"
        if extra:
            require_extra(extra, what)

    def names(self, default: str) -> tuple[str, Sequence[str]]:
        """Return dataset and splits, all fit to be the name of a file; `default` is the format's own dataset."""
        dataset = self.options.dataset or default
        _check_names("--dataset", dataset)
        _check_names("--split", *self.splits)
        return dataset, self.splits

    def paths(self, path: str) -> dict[str, str]:
        """Return the file of each split: `path` if there is one split, else that with the split's name behind its stem.

        ConfigError if a name is no part of a file name.
        """
        if len(self.splits) == 1:
            return {self.splits[0]: path}
        _check_names("--split", *self.splits)
        stem, dot, suffix = path.rpartition(".")
        return {split: f"{stem}_{split}{dot}{suffix}" for split in self.splits}

    def claim(self, *folders: str, numbered: Callable[[int], str] | None = None, dataset: str | None = None) -> None:
        """Empty the destination's folders of an earlier export, and mark it as begun; see `claim_destination`."""
        lock = self.held.enter_context(RunLock.held(self.destination, on_wait=self.on_wait))
        self.on_progress, self._prove_owner = lock.guarded(self.on_progress), lock.heartbeat
        claim = partial(claim_destination, self.destination, self.name, folders, numbered=numbered, dataset=dataset)
        claim(is_overwriting=self.request.is_overwriting)
        self.give_back = partial(unmark_empty, self.destination, folders, numbered)
        self._stored = partial(stored_files, self.destination, folders, numbered)

    @contextmanager
    def new_file(self, path: str) -> Iterator[Path]:
        """Give a path on this disk for one large file; see `new_file`."""
        with new_file(self.destination, path) as local:
            yield local
            self.size_bytes += local.stat().st_size
            # The file is hashed while it is on this disk, so that it is not read again from the destination.
            self.single_files[path] = file_sha256(local)

    @contextmanager
    def arrays(self, path: str, *names: str) -> Iterator[dict[str, JsonArray]]:
        """Write a file of an object of arrays; see `json_arrays`."""
        with self.new_file(path) as local, json_arrays(local, names) as arrays:
            yield arrays

    @contextmanager
    def records(self, path: str) -> Iterator[JsonArray]:
        """Write a file of one array, or, if its name ends in `.jsonl`, of a JSON value a line."""
        is_lines = path.endswith(".jsonl")
        begins, separator, ends = (b"", b"\n", b"\n") if is_lines else (b"[\n", b",\n", b"\n]\n")
        with self.new_file(path) as local, local.open("wb") as file:
            file.write(begins)
            yield JsonArray(file, separator)
            file.write(ends)

    def parquet_files(self, stem: str, schema: pa.Schema, groups: Iterator[pa.Table]) -> Iterator[tuple[str, int, int]]:
        """Write tables, a row group each, into files of `target_bytes`, one at least; yield path, rows and bytes."""
        group, number = next(groups, None), 0
        while group is not None or number == 0:
            path, num_rows, size_bytes = f"{stem}-{number:05d}.parquet", 0, self.size_bytes
            with self.new_file(path) as local, local.open("wb") as sink, open_writer(sink, schema) as writer:
                while group is not None and sink.tell() < self.options.target_bytes:
                    writer.write_table(group, row_group_size=max(group.num_rows, 1))
                    num_rows += group.num_rows
                    # The written group is released before the next group is made, so that memory holds one group.
                    group = None
                    group = next(groups, None)
            yield path, num_rows, self.size_bytes - size_bytes
            number += 1

    def add_file(self, path: str, data: bytes) -> None:
        """Write one small file."""
        self.destination.replace(path, data)
        self.size_bytes += len(data)
        self.single_files[path] = sha256_hex(data)

    def images(self, folder: str | None = None, split: str | None = None) -> Iterator[ExportImage]:
        """Yield each image, of a `split` alone, with the masks and expressions that the rule takes, in plan order.

        Its file is written to `folder`; None leaves that to the caller. One that is missing, changed or does not decode
        is left out. ConfigError if nothing is left of all splits, asked for in order. Memory is bounded by one shard.
        """
        request, rule = self.request, self.rule
        take, excluded = Selection(rule, self.dropped), request.excluded_images
        planned = PlannedImages(request.run.location, request.run.header, source=request.source)
        # `num_images` reads every receipt, so it is called only once.
        total = request.num_images * (1 if split is None else len(self.splits))
        for shard in request.run.shards():
            own = self._ids_of(shard, split)
            left_out = {each: why for each, why in excluded.of_shard(shard).items() if own is None or each in own}
            self.dropped.update(left_out.values())
            annotated = iter_annotations(
                [shard], kept_only=rule.is_kept_only, with_bytes=True, with_samples=rule.with_samples
            )
            offered = (each for each in annotated if own is None or each.image_id in own)
            # Masks are selected first, so that bytes are read only of images that keep a mask.
            wanted = [found for each in offered if each.image_id not in left_out and (found := take.image(each))]
            self._num_done = num_done = self._num_done + shard.receipt.counts.num_shown
            self.lacking.update((image.image_id, image.key) for image in wanted)
            sound = with_source_bytes(planned, wanted, self.dropped)
            for number, image in enumerate(sound, num_done - len(wanted) + 1):
                yield from self._with_file(image, folder)
                self.on_progress(number, total)
            self.on_progress(num_done, total)
        self.unmatched = excluded.unmatched(self.dropped, self._given)
        if not self.num_images and split in (None, self.splits[-1]):
            reasons = "; ".join(f"{num:,} {reason}" for reason, num in self.dropped.items() if num)
            raise ConfigError(
                f"Nothing of {request.run.location.root} is left to export: "
                f"{reasons or 'the run has no image with a mask'}"
            )

    def _ids_of(self, shard: CommittedShard, split: str | None) -> set[str] | None:
        """Return the images of a shard that are in a split, or in any that is written; None for all."""
        if not self.has_splits:
            return None
        rows = shard.shown(("image_id", "split")).to_pylist()
        if self.options.split is None and split in (None, self.splits[0]):
            self.dropped[WITHOUT_SPLIT] += sum(row["split"] is None for row in rows)
        wanted = self.splits if split is None else (split,)
        return {row["image_id"] for row in rows if row["split"] in wanted}

    def _with_file(self, image: AnnotatedImage, folder: str | None) -> Iterator[ExportImage]:
        try:
            image_file = image_file_of(image, self.request.run.header.of_shard(image.shard).config.images)
        except ImageError as error:
            logger.warning("%s is left out: %s", image.key, error)
            self.dropped[UNREADABLE] += 1
            return
        if folder is not None:
            self.files.write(folder, image_file.name, image_file.data)
        self.num_images += 1
        self.lacking.pop(image.image_id, None)
        self._num_encoded_anew += image_file.is_encoded_anew
        places = {mask.mask_id: place for place, mask in enumerate(image.masks)}
        said = [each for mask in image.masks for each in mask.expressions if each.target_mask_ids[0] == mask.mask_id]
        said += image.untargeted
        expressions = []
        for own, (first, *forms) in zip(said, sentences_of(image.image_id, said, self.options.rewording), strict=True):
            targets = tuple(places[mask] for mask in own.target_mask_ids)
            self.num_further += len(forms)
            for text in (first, *forms):
                # Only the first text keeps the samples (CaptionSample): the captioner did not produce the further ones.
                samples = own.samples if text == first else ()
                is_own = text == own.text and samples is own.samples
                record = own if is_own else replace(own, text=text, samples=samples)
                origin = {} if text == own.text else {"rewording_of": own.text}
                expressions.append(ExportExpression(next(self._text_numbers), record, targets, origin))
        yield ExportImage(
            self.num_images,
            image.image_id,
            image.key,
            image_file.name,
            image_file.data,
            (int(image.height), int(image.width)),
            tuple(ExportMask(next(self._mask_numbers), mask) for mask in image.masks),
            tuple(expressions),
            {} if image.picture is None else {name: getattr(image, name) for name in _OF_TILE},
            (image.split or "") if self.has_splits else self.splits[0],
        )

    def add(self, due: Content, found: Content) -> None:
        """Count an image, or one of its masks, as written; what was `found`, decoded, must be what is `due`."""
        if found != due:
            raise broken(self.destination.root, f"the record of {due.name} has other masks or expressions")
        self.written.add(due)

    def check_stored(self) -> str:
        """Read what is stored once, and return what was compared; a TransientError if it is not what was written."""
        self.files.finish()
        done, total = count(1), len(self.single_files) + self.files.num_files
        for path, due in self.single_files.items():
            check_file(self.destination, path, due)
            self.on_progress(next(done), total, CHECKING)

        def stored() -> Iterator[tuple[str, int]]:
            for path, size_bytes in self._stored():
                if path not in self.single_files:
                    yield path, size_bytes
                    if not (number := next(done)) % _PROGRESS_EVERY:
                        self.on_progress(min(number, total), total, CHECKING)

        compared = [f"the bytes of {len(self.single_files):,} file(s)"] if self.single_files else []
        compared += [self.files.check(stored())] if self.files.num_files else []
        self.on_progress(total, total, CHECKING)
        return f"read again at the end, as they were written: {' and '.join(compared)}"

    def report(
        self,
        rows: Mapping[str, int],
        files: Mapping[str, int],
        *,
        notes: Sequence[str] = (),
        checked: str = "",
        tables: Tables | None = None,
        **facts: str,
    ) -> ExportReport:
        """Describe the export, mark it as whole, with `facts` about it beside its rows, and return its report.

        What is stored is compared first. `checked` is what was compared beyond it and the records.
        """
        checks = tuple(filter(None, (_DECODED, checked, self.check_stored())))
        if number := self._num_encoded_anew:
            notes = [*notes, f"{number:,} image(s) were encoded again, upright and with three channels."]
        size_bytes = self.size_bytes + self.files.size_bytes
        unread = tuple(islice(self.lacking.values(), MAX_NAMED))
        report = ExportReport(rows, files, size_bytes, self.dropped, [*notes, *self.unmatched], checks, unread)
        self.describe(report, tables or {})
        told = {"unread": {"num": num, "images": unread}} if (num := report.num_unread) else {}
        self.mark_whole(num_images=self.request.num_images, **facts, rows=dict(rows), dropped=self.dropped, **told)
        return report

    def mark_whole(self, **facts: Any) -> None:
        """Mark the export as whole, with `facts` about it, JSON values, and the number of files in each folder.

        A later call knows by these whether all are there.
        """
        source = without_secrets(self.request.run.header.source)
        begins = {"format": self.name, "state": "whole", "request": self.request.digest, "source": source}
        single = (CROISSANT_NAME, EXPORT_NAME, *self.single_files)
        stored = self.files.by_folder + Counter(path.rpartition("/")[0] for path in single)
        mark(self.destination, {**begins, **facts, STORED: dict(stored)})

    @property
    def content_sha256(self) -> str:
        """The digest of what was written so far; readers with a cache distinguish exports by it."""
        return sha256_hex(printable_json([self.single_files, self.written.hexdigest()], sort_keys=True).encode())

    def describe(self, report: ExportReport, tables: Tables) -> None:
        """Write the description of all that was written; `tables` are the Parquet files of which rows can be read.

        Called right before the export is marked as whole. TakenOverError if another process owns the destination.
        """
        self._prove_owner()
        # The title names the content, because TensorFlow Datasets caches a dataset under its title.
        title = f"pseudoris-{self.name}-{self.content_sha256[:16]}"
        patterns = self.files.patterns | {path for path, _ in tables.values()}
        files = {**self.single_files, **dict.fromkeys(sorted(patterns))}
        tree = description(self.request, report, title=title, name=self.name, files=files, tables=tables)
        self.destination.replace(CROISSANT_NAME, tree)


def _check_names(option: str, *names: str) -> None:
    if other := [name for name in names if not _NAME.fullmatch(name)]:
        raise ConfigError(f"{option} {other[0]!r} becomes a file name. Use only letters, digits, _, + and -.")


def sentences_of(image_id: str, said: Sequence[ExpressionRecord], rewording: int) -> Iterable[tuple[str, ...]]:
    """Return what an export says for each of an image's expressions: its text, or its sentences by `--rewording`."""
    if not rewording:
        return ((each.text,) for each in said)
    # The import is here, because it loads torch, and every command imports this module.
    from pseudoris.interchange.dataset.rewording import sentences

    return sentences(image_id, said, rewording)
