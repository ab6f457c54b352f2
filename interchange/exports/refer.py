"""Exports REFER's layout for LAVT, LISA, CRIS (`docs/guides/exports.md`). Listed in `EXPORTS` for `cli/export`.

DEST/<dataset>/refs(<split_by>).p                      a reference per mask: its expressions, its split
DEST/<dataset>/instances.json                          images, masks, categories
DEST/images/mscoco/images/train2014/<file_name>        the images, upright

Records hold only plain Python values. `loadRefs` and similar loaders test `type(x) == int`, so a numpy number would
give None there, and a pickle with a numpy number needs a matching version of numpy.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, TypeAlias

from pseudoris.interchange.exports.coco_export import ANNOTATIONS, ResizedPolygons, annotation_of, image_record, ref_of
from pseudoris.interchange.exports.coco_export import REFER_IMAGES_FOLDER as IMAGES_FOLDER
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.image_files import CATEGORY
from pseudoris.interchange.exports.output_files import IMAGES_ARRAY, JsonArray
from pseudoris.interchange.exports.record import Content, broken, written_counts
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.interchange.human_refs import HumanRefs, read_human
from pseudoris.interchange.untrusted_pickle import PlainUnpickler
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.tables import SPLITS

# REFER's code exits for any other name. It knows `refclef` too, which is left out: its images are elsewhere.
_DATASETS: Final = ("refcoco", "refcoco+", "refcocog")
# Protocol 2 is the highest that the original REFER reads, because it runs on Python 2.
_PICKLE_PROTOCOL: Final = 2
_ANNOTATION_KEYS: Final = ("id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd")
SHOWN_TO_HUMANS: Final = "images that the merged human references show too"
_SPLIT_BY: Final = re.compile(r"[A-Za-z0-9_+-]+")
_Refs: TypeAlias = list[dict[str, Any]]


def _write(job: ExportJob) -> ExportReport:
    """Write images and instances as they come, the references at the end."""
    options, dataset = job.options, job.options.dataset or _DATASETS[0]
    if dataset not in _DATASETS:
        raise ConfigError(
            f"--dataset {dataset!r} is not known to REFER. Choose from {', '.join(_DATASETS)}, and tell exports apart "
            "by --split-by."
        )
    if options.masks not in (None, "polygon", "rle"):
        raise ConfigError(f"--masks {options.masks!r} is neither polygon nor rle.")
    for split in job.splits:
        if split not in SPLITS:
            raise ConfigError(f"--split {split!r} is not a split of REFER. Choose from {', '.join(SPLITS)}.")
    if not _SPLIT_BY.fullmatch(options.split_by):
        raise ConfigError(f"--split-by {options.split_by!r} becomes a file name. Use only letters, digits, _, + and -.")
    human = read_human(job.options.human)
    job.request = replace(job.request, exclusions=job.request.exclusions + human.exclusions)
    job.claim(dataset, IMAGES_FOLDER, dataset=dataset)
    instances_path, refs_path = f"{dataset}/instances.json", f"{dataset}/refs({job.options.split_by}).p"
    refs: _Refs = []
    job.dropped.update(human.dropped)
    with job.arrays(instances_path, IMAGES_ARRAY, ANNOTATIONS, "categories") as arrays:
        notes = _add_run(job, human, refs, arrays)
        _add_human(job, human, refs, arrays)
    splits, digest = Counter(ref["split"] for ref in refs), _digest(refs)
    with job.new_file(refs_path) as path:
        with path.open("wb") as file:
            pickle.dump(refs, file, protocol=_PICKLE_PROTOCOL)
        # The references are released before they are decoded, so that memory holds them only once.
        refs.clear()
        with path.open("rb") as file:
            if _digest(PlainUnpickler(file).load()) != digest:
                raise broken(job.destination.uri(refs_path), "its references are not those that were written")
    by_split = {f"references of {split}": num for split, num in splits.items()}
    return job.report(
        {"images": job.num_images + len(human.images), **by_split, "expressions": job.written.num_texts},
        {"images": job.files.num_files, dataset: 2},
        notes=[*_notes(job, dataset, human), *notes],
        checked=f"every mask decodes to its box and area; the references load, with plain numbers, from a pickle of "
        f"protocol {_PICKLE_PROTOCOL}",
        dataset=dataset,
    )


# LISA joins texts with `||`, and replaces `<image>` by an image, so texts may not contain them.
_TAKES: Final = TextRule(is_lower_case=True, refused=("||", "<image>"))
_READS: Final = ("max_tokens", "dataset", "split", "split_by", "human", "masks")
_SUMMARY: Final = "REFER's refs(…).p and instances.json, for LAVT, LISA, and CRIS's data_process"
REFER: Final = ExportFormat("refer", _SUMMARY, _write, _TAKES, _READS)


def _add_run(job: ExportJob, human: HumanRefs, refs: _Refs, arrays: dict[str, JsonArray]) -> list[str]:
    """Add the run's images, masks and expressions; return the notes on its polygons."""
    category_id, resized = human.free_category_id, ResizedPolygons()
    arrays["categories"].append({**CATEGORY, "id": category_id})
    taken = {image["file_name"] for image in human.images.values()}
    for image in job.images():
        if image.name in taken:
            raise ConfigError(f"--merge-human has an image {image.name}, and so has the run. Rename the human's.")
        job.files.write(IMAGES_FOLDER, image.name, image.data)
        row, measured = arrays[IMAGES_ARRAY].append(image_record(image)), image.measured
        for mask, said in image.masks_with_texts():
            # Every loader takes polygons. With an encoding MaskRIS and Sa2VA stop, and ReLA keeps no reference. Either
            # form stands in a list, because REFER tells them apart by the first element.
            code: Any = mask.rle
            counts = mask.record.rle_counts
            if job.options.masks != "rle":
                pixels = mask.pixels()
                code, counts = mask.corner_polygon(pixels)
                resized.add(code, pixels)
            record = annotation_of(image, mask, [code], category_id=category_id)
            annotation = {key: record[key] for key in _ANNOTATION_KEYS}
            refs.append(ref_of(image, said, image.split, mask.number, mask.number, category_id))
            found = arrays[ANNOTATIONS].append(annotation)
            if written_counts(found, image.size, measured) != counts:
                raise broken(image.name, f"annotation {mask.number} has another mask")
            due = Content.of_mask(image.name, image.size, _canonical(annotation), [each.text for each in said])
            size = (row["height"], row["width"])
            job.add(due, Content.of_mask(row["file_name"], size, _canonical(found), _texts(refs[-1:])))
    for shown in human.exclusions:
        job.dropped[SHOWN_TO_HUMANS] += job.dropped.pop(shown.dropped_phrase, 0)
    return [] if job.options.masks == "rle" else [resized.note()]


def _add_human(job: ExportJob, human: HumanRefs, refs: _Refs, arrays: dict[str, JsonArray]) -> None:
    for category in human.categories:
        arrays["categories"].append(category)
    last = {"num_masks": job.written.num_masks, "num_texts": job.written.num_texts}
    images = dict(enumerate(human.images.values(), job.num_images + 1))
    for number, image in images.items():
        arrays[IMAGES_ARRAY].append({**image, "id": number})
        if human.folder is not None:
            job.files.write(IMAGES_FOLDER, image["file_name"], human.image_bytes(image["file_name"]))
    for annotation, found in human.renumbered(dict(zip(human.images, images, strict=True)), **last):
        image = images[annotation["image_id"]]
        written = arrays[ANNOTATIONS].append(annotation)
        refs += found
        name, size, texts = image["file_name"], (image["height"], image["width"]), _texts(found)
        due, read = (Content.of_mask(name, size, _canonical(each), texts) for each in (annotation, written))
        job.add(due, read)


def _notes(job: ExportJob, dataset: str, human: HumanRefs) -> list[str]:
    options = job.options
    notes = [f"In the trainer, use dataset {dataset}, splitBy {options.split_by}, split {', '.join(job.splits)}."]
    if dataset != "refcocog" and options.split_by != "unc":
        notes.append("LISA always reads splitBy unc (umd for refcocog). For LISA, give --split-by unc.")
    elif dataset == "refcocog" and options.split_by != "umd":
        notes.append("LISA always reads splitBy umd for refcocog. For LISA, give --split-by umd.")
    notes.append(
        "CRIS and ETRIS want the images in images/train2014: link that folder to images/mscoco/images/train2014."
    )
    if not human.refs and len(job.splits) == 1:
        notes.append(
            "The export has one split. LAVT also reads val from the same file: add human splits with --merge-human."
        )
    elif human.refs and human.folder is None:
        notes.append(
            f"The {len(human.images):,} images of the human references were not copied. Put them into "
            f"{IMAGES_FOLDER}, or give --merge-images."
        )
    return notes


def _canonical(annotation: Mapping[str, Any]) -> str:
    """Return the mask of an annotation as one text, equal for equal ones: a human's may be polygons."""
    return json.dumps(annotation["segmentation"], sort_keys=True)


def _texts(refs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [sentence["sent"] for ref in refs for sentence in ref["sentences"]]


def _digest(refs: _Refs) -> str:
    digest = sha256()
    for ref in refs:
        # `json.dumps` raises an error for NumPy's numbers. The pickle may hold only plain Python numbers.
        digest.update(json.dumps(ref, sort_keys=True).encode())
    return digest.hexdigest()
