"""REFER's layout, which LAVT, LISA and the tools of CRIS and ETRIS read; `docs/exports.md` lists what each asks for.

DEST/<dataset>/refs(<split_by>).p                      a reference a mask: its expressions, its split
DEST/<dataset>/instances.json                          images, masks, categories
DEST/images/mscoco/images/train2014/<file_name>        the images, upright
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from typing import Any, Final

from schemas.errors import ConfigError
from training.exports.annotations import TextRule
from training.exports.coco_form import CATEGORY
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.human_refs import HumanRefs, read_human
from training.exports.json_arrays import JsonArray, json_arrays
from training.exports.many_files import ManyFiles
from training.exports.pictures import encoded_anew_notes, iter_pictures, key_name
from training.exports.protocol import ExportReport, ExportRequest, OnProgress
from training.exports.refer_check import check_refer
from training.exports.refer_records import Numbers, annotation_record, canonical, image_record, ref_record
from training.exports.workspace import finish_place, nothing_left, take_place

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
    """All references stand in memory while they are written and read back, as in every trainer that loads them."""

    summary = "REFER's refs(…).p and instances.json, for LAVT, LISA and data_process of CRIS and ETRIS"
    reads = frozenset({"max_tokens", "dataset", "split", "split_by", "human"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images and instances as they come, the references at the end; then read all of it back."""
        dataset = _checked_dataset(request)
        human = read_human(request.options.human)
        take_place(request, NAME, (dataset, IMAGES_FOLDER))
        instances, refs = f"{dataset}/instances.json", f"{dataset}/refs({request.options.split_by}).p"
        writing = _Writing(request, human)
        with (
            ManyFiles(request.destination) as files,
            new_file(request.destination, instances) as path,
            json_arrays(path, ("images", "annotations", "categories")) as arrays,
        ):
            writing.add_run(files, arrays, on_progress)
            writing.add_human(files, arrays)
        with new_file(request.destination, refs) as path, path.open("wb") as file:
            pickle.dump(writing.refs, file, protocol=PICKLE_PROTOCOL)
        rows = writing.rows()
        # Let go before they are read back: memory holds them once.
        writing.refs.clear()
        files.check()
        check_refer(request.destination, refs, instances, due=writing.written, on_progress=on_progress)
        finish_place(request, NAME, {"dataset": dataset, "rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": files.num_files, dataset: 2},
            size_bytes=files.size_bytes + sum(request.destination.size(name) or 0 for name in (refs, instances)),
            dropped=writing.dropped,
            notes=_notes(request, dataset, human, writing),
            checked=(
                "every reference finds its mask and its image; all masks and expressions are the run's",
                f"ids are unique plain ints; pickle protocol {PICKLE_PROTOCOL}",
                "every image file stands",
            ),
        )


class _Writing:
    """Images and masks on their way into the files, references gathered."""

    def __init__(self, request: ExportRequest, human: HumanRefs) -> None:
        self._request = request
        self._human = human
        self._numbers = Numbers()
        self._category_id = human.free_category_id
        self._human_names = human.file_names
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
        for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress):
            if self._human_names & {key_name(image.key), picture.name}:
                self.dropped[SHOWN_TO_HUMANS] += 1
                continue
            files.write(IMAGES_FOLDER, picture.name, picture.data)
            image_id = next(self._numbers.image)
            arrays["images"].append(image_record(image_id, image, picture.name))
            self.num_images += 1
            self.num_encoded_anew += picture.is_encoded_anew
            for mask in image.masks:
                annotation = annotation_record(next(self._numbers.annotation), image_id, self._category_id, mask)
                texts = [expression.text for expression in mask.expressions]
                ref = ref_record(self._numbers, annotation, file_name=picture.name, split=options.split, texts=texts)
                self._add(arrays, annotation, [ref], file_name=picture.name, size=(image.height, image.width))
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
            f"--dataset {dataset!r}: REFER knows {', '.join(DATASETS)} and stops at any other name; take one of them, "
            "and tell exports apart by --split-by"
        )
    if options.split not in SPLITS:
        raise ConfigError(f"--split {options.split!r}: REFER's splits are {', '.join(SPLITS)}")
    if not _SPLIT_BY.fullmatch(options.split_by):
        raise ConfigError(
            f"--split-by {options.split_by!r}: letters, digits, _, + and - only; it becomes a file's name"
        )
    return dataset


def _notes(request: ExportRequest, dataset: str, human: HumanRefs, writing: _Writing) -> list[str]:
    options = request.options
    notes = [f"Trainers find it as dataset {dataset}, splitBy {options.split_by}, split {options.split}."]
    if dataset != "refcocog" and options.split_by != "unc":
        notes.append("LISA fixes splitBy to unc (umd for refcocog): for it, give --split-by unc.")
    elif dataset == "refcocog" and options.split_by != "umd":
        notes.append("LISA fixes splitBy to umd for refcocog: for it, give --split-by umd.")
    notes.append(
        "CRIS and ETRIS want the images in images/train2014: link that folder to images/mscoco/images/train2014."
    )
    if not human.refs:
        notes.append("There is one split only. LAVT asks the same file for val: merge a human's with --merge-human.")
    elif human.folder is None:
        notes.append(
            f"The {len(human.images):,} images of the human references were not copied: put them into {IMAGES_FOLDER}, "
            "or give --merge-images."
        )
    return [*notes, *encoded_anew_notes(writing.num_encoded_anew)]
