"""REFER's layout, which LAVT, LISA and the tools of CRIS and ETRIS read; `docs/exports.md` lists what each asks for.

DEST/<dataset>/refs(<split_by>).p                      a reference a mask: its expressions, its split
DEST/<dataset>/instances.json                          images, masks, categories
DEST/images/mscoco/images/train2014/<file_name>        the images, upright
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from dataclasses import replace
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.exports.destination import claim_destination, mark_whole, nothing_left
from pseudoris.training.exports.image_files import CATEGORY, encoded_anew_notes, iter_image_files
from pseudoris.training.exports.output_files import Fingerprint, JsonArray, ManyFiles, json_arrays, new_file
from pseudoris.training.exports.protocol import ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.refer_records import (
    HumanRefs,
    RecordIds,
    annotation_record,
    canonical,
    check_refer,
    image_record,
    read_human,
    ref_record,
)
from pseudoris.training.exports.selected_rows import TextRule

NAME: Final = "refer"
IMAGES_FOLDER: Final = "images/mscoco/images/train2014"
# REFER ends the process for any other. (`refclef` keeps its images elsewhere.)
DATASETS: Final = ("refcoco", "refcoco+", "refcocog")
SPLITS: Final = ("train", "val", "test", "testA", "testB")
# LAVT documents Python 3.7, which reads none above 4; 2 serves the original REFER's Python 2 as well.
PICKLE_PROTOCOL: Final = 2
SHOWN_TO_HUMANS: Final = "images that the merged human references show too"
# LISA joins texts with it, and refuses one that holds it.
_REFUSED: Final = ("||",)
_SPLIT_BY: Final = re.compile(r"[A-Za-z0-9_+-]+")


class ReferExport:
    """Memory holds all references while they are written and read back, as every trainer does that loads them."""

    summary = "REFER's refs(…).p and instances.json, for LAVT, LISA, and CRIS's data_process"
    reads = frozenset({"max_tokens", "dataset", "split", "split_by", "human"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images and instances as they come, the references at the end; then read all of it back."""
        dataset = _checked_dataset(request)
        human = read_human(request.options.human)
        request = replace(request, exclusions=request.exclusions + human.exclusions)
        claim_destination(request, NAME, (dataset, IMAGES_FOLDER))
        instances, refs = f"{dataset}/instances.json", f"{dataset}/refs({request.options.split_by}).p"
        writer = _Writer(request, human)
        with (
            ManyFiles(request.destination) as files,
            new_file(request.destination, instances) as path,
            json_arrays(path, ("images", "annotations", "categories")) as arrays,
        ):
            writer.add_run(files, arrays, on_progress)
            writer.add_human(files, arrays)
        with new_file(request.destination, refs) as path, path.open("wb") as file:
            pickle.dump(writer.refs, file, protocol=PICKLE_PROTOCOL)
        rows = writer.rows()
        # Let go before they are read back: memory holds them once.
        writer.refs.clear()
        files.check()
        check_refer(request.destination, refs, instances, due=writer.written, on_progress=on_progress)
        mark_whole(request, NAME, {"dataset": dataset, "rows": rows, "dropped": dict(writer.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": files.num_files, dataset: 2},
            size_bytes=files.size_bytes + sum(request.destination.size(name) or 0 for name in (refs, instances)),
            dropped=writer.dropped,
            notes=_notes(request, dataset, human, writer),
            checked=(
                "every reference finds its mask and its image; all masks and expressions equal the run's",
                f"ids are unique plain ints; pickle protocol {PICKLE_PROTOCOL}",
                "every image file exists",
            ),
        )


class _Writer:
    """Images and masks on their way into the files, references gathered."""

    def __init__(self, request: ExportRequest, human: HumanRefs) -> None:
        self._request = request
        self._human = human
        self._numbers = RecordIds()
        self._category_id = human.free_category_id
        self.dropped: Counter[str] = Counter(human.dropped)
        self.refs: list[dict[str, Any]] = []
        self.written = Fingerprint()
        self.num_images = 0
        self.num_encoded_anew = 0

    def add_run(self, files: ManyFiles, arrays: dict[str, JsonArray], on_progress: OnProgress) -> None:
        """Add the run's images, masks and expressions."""
        options = self._request.options
        rule = TextRule(options.max_tokens, is_lower_case=True, refused=_REFUSED)
        arrays["categories"].append({**CATEGORY, "id": self._category_id})
        for image, image_file in iter_image_files(self._request, self.dropped, rule, on_progress):
            files.write(IMAGES_FOLDER, image_file.name, image_file.data)
            image_id = next(self._numbers.image)
            arrays["images"].append(image_record(image_id, image, image_file.name))
            self.num_images += 1
            self.num_encoded_anew += image_file.is_encoded_anew
            for mask in image.masks:
                annotation = annotation_record(next(self._numbers.annotation), image_id, self._category_id, mask)
                texts = [expression.text for expression in mask.expressions]
                ref = ref_record(self._numbers, annotation, file_name=image_file.name, split=options.split, texts=texts)
                self._add(arrays, annotation, [ref], file_name=image_file.name, size=(image.height, image.width))
        for shown in self._human.exclusions.rules:
            self.dropped[SHOWN_TO_HUMANS] += self.dropped.pop(shown.dropped_phrase, 0)
        if not self.refs:
            raise nothing_left(self._request, self.dropped)

    def add_human(self, files: ManyFiles, arrays: dict[str, JsonArray]) -> None:
        """Add the human's, numbered on."""
        for category in self._human.categories:
            arrays["categories"].append(category)
        image_ids = {old: next(self._numbers.image) for old in self._human.images}
        for old, image in self._human.images.items():
            arrays["images"].append({**image, "id": image_ids[old]})
            self.num_images += 1
            if self._human.folder is not None:
                files.write(IMAGES_FOLDER, image["file_name"], self._human.image_bytes(image["file_name"]))
        names = {image_ids[old]: image for old, image in self._human.images.items()}
        for annotation, refs in self._human.renumbered(self._numbers, image_ids):
            image = names[annotation["image_id"]]
            size = (image["height"], image["width"])
            self._add(arrays, annotation, refs, file_name=image["file_name"], size=size)

    def _add(
        self,
        arrays: dict[str, JsonArray],
        annotation: dict[str, Any],
        refs: list[dict[str, Any]],
        *,
        file_name: str,
        size: tuple[int, int],
    ) -> None:
        arrays["annotations"].append(annotation)
        self.refs += refs
        texts = [sentence["sent"] for ref in refs for sentence in ref["sentences"]]
        self.written.add(file_name, size, canonical(annotation["segmentation"]), texts)

    def rows(self) -> dict[str, int]:
        """Return images, references by split, expressions."""
        splits = Counter(ref["split"] for ref in self.refs)
        by_split = {f"references of {split}": num for split, num in splits.items()}
        return {"images": self.num_images, **by_split, "expressions": self.written.num_texts}


def _checked_dataset(request: ExportRequest) -> str:
    options = request.options
    dataset = options.dataset or DATASETS[0]
    if dataset not in DATASETS:
        raise ConfigError(
            f"--dataset {dataset!r} is not known to REFER. Choose from {', '.join(DATASETS)}, and tell exports apart "
            "by --split-by."
        )
    if options.split not in SPLITS:
        raise ConfigError(f"--split {options.split!r} is not a split of REFER. Choose from {', '.join(SPLITS)}.")
    if not _SPLIT_BY.fullmatch(options.split_by):
        raise ConfigError(f"--split-by {options.split_by!r} becomes a file name. Use only letters, digits, _, + and -.")
    return dataset


def _notes(request: ExportRequest, dataset: str, human: HumanRefs, writer: _Writer) -> list[str]:
    options = request.options
    notes = [f"In the trainer, use dataset {dataset}, splitBy {options.split_by}, split {options.split}."]
    if dataset != "refcocog" and options.split_by != "unc":
        notes.append("LISA always reads splitBy unc (umd for refcocog). For LISA, give --split-by unc.")
    elif dataset == "refcocog" and options.split_by != "umd":
        notes.append("LISA always reads splitBy umd for refcocog. For LISA, give --split-by umd.")
    notes.append(
        "CRIS and ETRIS want the images in images/train2014: link that folder to images/mscoco/images/train2014."
    )
    if not human.refs:
        notes.append(
            "The export has one split. LAVT also reads val from the same file: add human splits with --merge-human."
        )
    elif human.folder is None:
        notes.append(
            f"The {len(human.images):,} images of the human references were not copied. Put them into "
            f"{IMAGES_FOLDER}, or give --merge-images."
        )
    return [*notes, *encoded_anew_notes(writer.num_encoded_anew)]
