"""REFER's layout, which LAVT, LISA and the tools of CRIS and ETRIS read; `docs/exports.md` lists what each asks for.

DEST/<dataset>/refs(<split_by>).p                      a reference a mask: its expressions, its split
DEST/<dataset>/instances.json                          images, masks, categories
DEST/images/mscoco/images/train2014/<file_name>        the images, upright
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.human_refs import HumanRefs, RecordIds, counts_of, read_human
from pseudoris.training.exports.image_files import CATEGORY
from pseudoris.training.exports.output_files import (
    JsonArray,
    ManyFiles,
    iter_json_arrays,
    json_arrays,
    new_file,
)
from pseudoris.training.exports.read_back import Content, broken, check_texts
from pseudoris.training.exports.record import ExportExpression, ExportMask
from pseudoris.training.exports.selected_rows import TextRule
from pseudoris.training.untrusted_pickle import load_plain

IMAGES_FOLDER: Final = "images/mscoco/images/train2014"
# REFER ends the process for any other. (`refclef` keeps its images elsewhere.)
_DATASETS: Final = ("refcoco", "refcoco+", "refcocog")
SPLITS: Final = ("train", "val", "test", "testA", "testB")
# LAVT documents Python 3.7, which reads none above 4; 2 serves the original REFER's Python 2 as well.
_PICKLE_PROTOCOL: Final = 2
_MAX_PICKLE_PROTOCOL: Final = 4
SHOWN_TO_HUMANS: Final = "images that the merged human references show too"
_SPLIT_BY: Final = re.compile(r"[A-Za-z0-9_+-]+")


def _write(job: ExportJob) -> ExportReport:
    """Write images and instances as they come, the references at the end; then read all of it back.

    Memory holds all references while they are written and read back, as every trainer does that loads them.
    """
    dataset = _checked_dataset(job)
    human, destination = read_human(job.options.human), job.destination
    job.request = replace(job.request, exclusions=job.request.exclusions + human.exclusions)
    job.claim(dataset, IMAGES_FOLDER)
    instances_path, refs_path = f"{dataset}/instances.json", f"{dataset}/refs({job.options.split_by}).p"
    writer = _Writer(job, human)
    with (
        ManyFiles(destination) as files,
        new_file(destination, instances_path) as path,
        json_arrays(path, ("images", "annotations", "categories")) as arrays,
    ):
        writer.add_run(files, arrays)
        writer.add_human(files, arrays)
    with new_file(destination, refs_path) as path, path.open("wb") as file:
        pickle.dump(writer.refs, file, protocol=_PICKLE_PROTOCOL)
    splits = Counter(ref["split"] for ref in writer.refs)
    # Let go before they are read back: memory holds them once.
    writer.refs.clear()
    files.check()
    job.check(_read_back(destination, refs_path, instances_path), destination.root)
    by_split = {f"references of {split}": num for split, num in splits.items()}
    return job.report(
        {"images": job.num_images + len(human.images), **by_split, "expressions": job.written.num_texts},
        {"images": files.num_files, dataset: 2},
        files.size_bytes + job.sizes(refs_path, instances_path),
        notes=_notes(job, dataset, human),
        checked=(
            "every reference finds its mask and its image; all masks and expressions equal the run's",
            f"ids are unique plain ints; pickle protocol {_PICKLE_PROTOCOL}",
            "every image file exists",
        ),
        dataset=dataset,
    )


REFER: Final = ExportFormat(
    "refer",
    "REFER's refs(…).p and instances.json, for LAVT, LISA, and CRIS's data_process",
    reads=frozenset({"max_tokens", "dataset", "split", "split_by", "human", "masks"}),
    # LISA joins texts with it, and refuses one that holds it.
    takes=TextRule(is_lower_case=True, refused=("||",)),
    writer=_write,
)


class _Writer:
    """Images and masks on their way into the files, references gathered.

    Records hold only plain Python values. `loadRefs` and similar loaders test `type(x) == int`, so a numpy number would
    give None there, and a pickle with a numpy number needs a matching version of numpy.
    """

    def __init__(self, job: ExportJob, human: HumanRefs) -> None:
        self._job = job
        self._human = human
        self._numbers = RecordIds()
        self._category_id = human.free_category_id
        self.refs: list[dict[str, Any]] = []
        job.dropped.update(human.dropped)

    def add_run(self, files: ManyFiles, arrays: dict[str, JsonArray]) -> None:
        """Add the run's images, masks and expressions."""
        arrays["categories"].append({**CATEGORY, "id": self._category_id})
        for image in self._job.images():
            files.write(IMAGES_FOLDER, image.name, image.data)
            image_id, (height, width) = next(self._numbers["image"]), image.size
            arrays["images"].append({"id": image_id, "file_name": image.name, "height": height, "width": width})
            for mask, said in image.masks_with_texts():
                annotation = self._annotation(mask, image_id)
                ref = self._ref(said, annotation, image.name)
                self._add(arrays, annotation, [ref], file_name=image.name, size=image.size)
        dropped = self._job.dropped
        for shown in self._human.exclusions:
            dropped[SHOWN_TO_HUMANS] += dropped.pop(shown.dropped_phrase, 0)

    def _annotation(self, mask: ExportMask, image_id: int) -> dict[str, Any]:
        return {
            "id": next(self._numbers["annotation"]),
            "image_id": image_id,
            "category_id": self._category_id,
            "bbox": mask.box_xywh,
            "area": mask.area,
            # In a list: REFER checks the first element to distinguish an encoding from polygons, and fails on a bare
            # dict.
            "segmentation": [mask.corner_polygon()[0] if self._job.options.masks == "polygon" else mask.rle],
            "iscrowd": 0,
        }

    def _ref(self, said: Sequence[ExportExpression], annotation: dict[str, Any], file_name: str) -> dict[str, Any]:
        """Return an element of the refs file."""
        sentences = [{**sentence_of(each), "sent_id": next(self._numbers["sentence"])} for each in said]
        return {
            "ref_id": next(self._numbers["ref"]),
            "ann_id": annotation["id"],
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "split": self._job.options.split,
            "sent_ids": [sentence["sent_id"] for sentence in sentences],
            "sentences": sentences,
            "file_name": file_name,
        }

    def add_human(self, files: ManyFiles, arrays: dict[str, JsonArray]) -> None:
        """Add the human's, numbered on."""
        for category in self._human.categories:
            arrays["categories"].append(category)
        image_ids = {old: next(self._numbers["image"]) for old in self._human.images}
        for old, image in self._human.images.items():
            arrays["images"].append({**image, "id": image_ids[old]})
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
        self._job.add(Content.of_mask(file_name, size, _canonical(annotation), _texts(refs)))


def sentence_of(said: ExportExpression) -> dict[str, Any]:
    """Return an expression as a sentence; both `sent` and `raw` hold the text: trainers read one or the other."""
    return {"sent_id": said.number, "sent": said.text, "raw": said.text, "tokens": said.text.split()}


def _checked_dataset(job: ExportJob) -> str:
    options = job.options
    dataset = options.dataset or _DATASETS[0]
    if dataset not in _DATASETS:
        raise ConfigError(
            f"--dataset {dataset!r} is not known to REFER. Choose from {', '.join(_DATASETS)}, and tell exports apart "
            "by --split-by."
        )
    if options.masks not in ("rle", "polygon"):
        raise ConfigError(f"--masks {options.masks!r} is neither rle nor polygon.")
    if options.split not in SPLITS:
        raise ConfigError(f"--split {options.split!r} is not a split of REFER. Choose from {', '.join(SPLITS)}.")
    if not _SPLIT_BY.fullmatch(options.split_by):
        raise ConfigError(f"--split-by {options.split_by!r} becomes a file name. Use only letters, digits, _, + and -.")
    return dataset


def _notes(job: ExportJob, dataset: str, human: HumanRefs) -> list[str]:
    options = job.options
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
    return [*notes, *job.encoded_anew_notes()]


def _canonical(annotation: Mapping[str, Any]) -> str:
    """Return the mask of an annotation as one text, equal for equal ones: a human's may be polygons."""
    return json.dumps(annotation["segmentation"], sort_keys=True)


def _texts(refs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [sentence["sent"] for ref in refs for sentence in ref["sentences"]]


def _read_back(destination: RunLocation, refs_path: str, instances_path: str) -> Iterator[Content]:
    """Read references and instances; the references, all in memory, as a trainer holds them."""
    where = destination.uri(refs_path)
    by_annotation: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for ref in _checked_refs(destination.read_bytes(refs_path), where):
        by_annotation[ref["ann_id"]].append(ref)
    images: dict[int, Mapping[str, Any]] = {}
    uri = destination.uri(instances_path)
    with destination.open_input(instances_path) as file:
        for name, element in iter_json_arrays(file, uri):
            if name == "images":
                if element["id"] in images:
                    raise broken(uri, f"two images have the id {element['id']}")
                images[element["id"]] = element
            elif name == "annotations":
                refs = by_annotation.pop(element["id"], [])
                image = _image_of(element, refs, images, uri)
                size = (image["height"], image["width"])
                yield Content.of_mask(image["file_name"], size, _canonical(element), _texts(refs))
    if by_annotation:
        raise broken(where, f"{len(by_annotation)} references name masks that are not in {uri}")
    if len({image["file_name"] for image in images.values()}) != len(images):
        raise broken(uri, "two images share a file")


def _checked_refs(data: bytes, where: str) -> Sequence[Mapping[str, Any]]:
    # Protocols from 2 on begin with their number; older ones are read everywhere.
    if data[:1] == b"\x80" and data[1] > _MAX_PICKLE_PROTOCOL:
        raise broken(where, f"it has pickle protocol {data[1]}, which the trainers' Python cannot read")
    try:
        refs: list[dict[str, Any]] = load_plain(data, where)
    except ConfigError as error:
        raise broken(where, str(error)) from error
    ref_ids, sentence_ids = set[int](), set[int]()
    num_sentences = 0
    for ref in refs:
        place = f"{where}, reference {ref['ref_id']}"
        texts = [sentence[key] for sentence in ref["sentences"] for key in ("sent", "raw")]
        ids = [ref["ref_id"], ref["ann_id"], ref["image_id"], ref["category_id"], *ref["sent_ids"]]
        if not check_texts(texts, place):
            raise broken(place, "it has no text")
        if not all(type(each) is int for each in ids):
            raise broken(place, "it has an id that is not a plain int")
        if ref["sent_ids"] != [sentence["sent_id"] for sentence in ref["sentences"]]:
            raise broken(where, f"sent_ids and sentences of reference {ref['ref_id']} differ")
        ref_ids.add(ref["ref_id"])
        sentence_ids.update(ref["sent_ids"])
        num_sentences += len(ref["sent_ids"])
    if (len(ref_ids), len(sentence_ids)) != (len(refs), num_sentences):
        raise broken(where, "two references, or two sentences, share an id")
    return refs


def _image_of(
    annotation: Mapping[str, Any], refs: list[Mapping[str, Any]], images: Mapping[int, Mapping[str, Any]], uri: str
) -> Mapping[str, Any]:
    """Return the image of an annotation, once references, image and mask fit it."""
    number, image = annotation["id"], images.get(annotation["image_id"])
    if not refs:
        raise broken(uri, f"annotation {number} has no reference")
    if image is None or any(ref["image_id"] != annotation["image_id"] for ref in refs):
        raise broken(uri, f"annotation {number} names an image that does not exist")
    try:
        # A bare encoding would stop the loader.
        if not isinstance(annotation["segmentation"], list):
            raise ValueError("it is not in a list")
        counts_of(annotation["segmentation"], (image["height"], image["width"]))
    except ValueError as error:
        raise broken(uri, f"the mask of annotation {number}: {error}") from error
    return image
