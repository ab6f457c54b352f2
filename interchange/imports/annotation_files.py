"""Reads the annotation that an import names. Called by `import_run` and `label_studio`.

The files are untrusted: what does not fit together is refused, and what is left out is counted.

REFER, the format of RefCOCO, is `refs(<splitBy>).p`, a pickle, next to `instances.json`. `sent` of a sentence is read,
as most trainers do, or `raw` if it is missing. Only objects with a reference in the requested splits are read. The
pickle's file names are ignored, as usual for this format. gRefCOCO has `grefs(<splitBy>).json` in place of the pickle.
Its `ann_id` is a list of several objects, or -1 alone for no object.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any, Final

from pseudoris.interchange import ImportFormat, Orientation
from pseudoris.interchange.imports.coco_annotation import CocoTables, read_coco, read_coco_tables
from pseudoris.interchange.imports.human_annotation import (
    Annotation,
    HumanImage,
    HumanMask,
    HumanPhrase,
    clean_texts,
    read_json,
    shown,
)
from pseudoris.interchange.imports.reason_annotation import read_reason
from pseudoris.interchange.untrusted_pickle import load_plain
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.uris import refuse_secrets
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import Identity
from pseudoris.schemas.shard import clean_text
from pseudoris.store.exclusion_rules import Exclusions
from pseudoris.store.runs.planned_run import package_versions
from pseudoris.store.sources.root import SourceRoot, root_at

# In these formats the splits choose entries of one file. In all others they choose files.
_SPLIT_INSIDE: Final = ("refer", "grefcoco")

# The run records the versions of these packages, because another version may give other bytes.
PACKAGES: Final = ("pseudoris", "pyarrow", "pillow", "numpy", "pycocotools")
# An import reads only these sections of the configuration, because it runs no model.
_SECTIONS: Final = ("images", "shards")
INSTANCES_NAME: Final = "instances.json"
# The phrases of an image, by their targets and text.
_Phrases = dict[tuple[tuple[int, ...], str], HumanPhrase]
_REFS_FORMS: Final = {"refer": "refs({}).p", "grefcoco": "grefs({}).json"}
_REFER: Final = f"A REFER dataset has refs(<splitBy>).p beside {INSTANCES_NAME}."
_PHRASECUT: Final = "PhraseCut has refer_train.json, refer_val.json, refer_test.json and refer_miniv.json."
_GREF: Final = f"gRefCOCO has grefs(<splitBy>).json beside {INSTANCES_NAME}."
_NO_OBJECT: Final = -1


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """One import.

    Attributes:
        annotation: File, folder or url of the annotation, as ANNOTATION of `pseudoris import`.
        images: Folder or url that file names are relative to. Keys and ids are those of a run over it. For
            `label-studio` it is the corrected run.
        config: Only its limits of images, size of shards, storage and endpoint are read.
        splits: What to import into one run; `train` if empty. COCO and a file of PhraseCut have none.
        split_by: The name in the brackets of `refs(…).p` or `grefs(…).json`, if `annotation` is a folder with several.
        captions: COCO only: file or url of captions by instance.
        prefix: Folder below `images` that the file names start in, "" for `images` itself.
        skips_bad_masks: Whether a mask that does not fit its image is left out alone, and not with its image.
        num_workers: Shards at work at a time; decides no byte.
        exclusions: Images to leave out; of an existing run they must be the same, or none.
    """

    annotation: str
    images: str
    config: RunConfig
    format: ImportFormat
    splits: tuple[str, ...] = ()
    split_by: str | None = None
    captions: str | None = None
    prefix: str = ""
    orientation: Orientation = "upright"
    skips_bad_masks: bool = False
    num_workers: int = 1
    exclusions: Exclusions = ()

    @property
    def chosen_splits(self) -> tuple[str, ...]:
        """What to import: `splits`, or `train` if it is empty."""
        return self.splits or ("train",)

    def identity(self, digests: Mapping[str, str]) -> Identity:
        """Return what must be equal for two calls to belong to one run; `digests` are the annotation's, by file."""
        method: dict[str, Any] = {name: getattr(self.config, name).model_dump(mode="json") for name in _SECTIONS}
        method["import"] = {
            "format": self.format,
            "files": dict(digests),
            "prefix": self.prefix,
            "orientation": self.orientation,
            **({"splits": sorted(set(self.chosen_splits))} if self.format in _SPLIT_INSIDE else {}),
            **({"skips_bad_masks": True} if self.skips_bad_masks else {}),
        }
        # Weights and device are empty, because no model computes: boxes and run lengths are equal on every machine.
        return Identity(method=method, weights={}, device_kind="none", versions=package_versions(PACKAGES))


def read_refer(refs: bytes, instances: bytes, *, refs_name: str, splits: Sequence[str]) -> Annotation:
    """Return the objects of the references of `splits`, and their images, out of the whole pickle and instances."""
    tables = read_coco_tables(instances, INSTANCES_NAME)
    # Of each annotation the sentences, not yet checked, and the splits of their references.
    sentences: defaultdict[int, list[tuple[Any, str]]] = defaultdict(list)
    for where, ref in _chosen(load_plain(refs, refs_name), refs_name, splits):
        sentences[_annotation_of(ref, tables, where)] += [(each, ref["split"]) for each in _sentences(ref, where)]
    left_out = Counter({"objects without a reference in these splits": len(tables.annotations) - len(sentences)})
    phrases: defaultdict[str, list[HumanPhrase]] = defaultdict(list)
    for entry in tables.annotations.values():
        own = sentences.get(entry.annotation_id)
        if own is not None:
            where = f"{refs_name}: a sentence of annotation {entry.annotation_id}"
            texts = clean_texts((sentence for sentence, _ in own), left_out, where=where)
            # The sentences are reversed, so that a text in two splits counts in the first of them.
            split_of = {clean_text(sentence): split for sentence, split in reversed(own)}
            phrases[entry.path] += (HumanPhrase((entry.index,), text, split_of[text]) for text in texts)
    digests = {refs_name: sha256_hex(refs), INSTANCES_NAME: sha256_hex(instances)}
    return Annotation(tables.images(sentences, phrases, phrases), digests, +left_out)


def read_gref(refs: bytes, instances: bytes, *, refs_name: str, splits: Sequence[str]) -> Annotation:
    """Return the objects of gRefCOCO's references of `splits`, and the expressions of several of them, or of none.

    Source: henghuiding/ReLA, `gres_model/data/datasets/grefer.py` and `grefcoco.py`, 3ca9551.
    """
    tables = read_coco_tables(instances, INSTANCES_NAME)
    left_out, said = Counter[str](), defaultdict[str, _Phrases](dict)
    named: set[int] = set()
    for where, ref in _chosen(read_json(refs, refs_name), refs_name, splits):
        ids = ref.get("ann_id")
        if not isinstance(ids, list) or not ids:
            raise ConfigError(f"{where} has the ann_id {shown(ids)}. A list of ids is needed, [-1] for no object.")
        own = [] if ids == [_NO_OBJECT] else [_annotation_of({**ref, "ann_id": each}, tables, where) for each in ids]
        named.update(own)
        path = _path_of(ref, tables, where)
        targets = tuple(sorted({tables.annotations[each].index for each in own}))
        for text in clean_texts(_sentences(ref, where), left_out, where=where):
            left_out["repeated expressions of the same objects"] += (targets, text) in said[path]
            # A text in two splits counts in the first of them.
            said[path].setdefault((targets, text), HumanPhrase(targets, text, ref["split"]))
    left_out["objects without a reference in these splits"] = len(tables.annotations) - len(named)
    paths = {*said, *(tables.annotations[each].path for each in named)}
    digests = {refs_name: sha256_hex(refs), INSTANCES_NAME: sha256_hex(instances)}
    phrases = {path: tuple(each.values()) for path, each in said.items()}
    return Annotation(tables.images(named, phrases, sorted(paths)), digests, +left_out)


def _chosen(refs: Any, name: str, splits: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the references of the splits, each with its name for messages."""
    if not isinstance(refs, list):
        raise ConfigError(f"{name} has {shown(refs)}. A list of references is needed.")
    found: Counter[str] = Counter()
    for place, ref in enumerate(refs):
        where = f"{name}: reference {place}"
        if not isinstance(ref, dict) or not isinstance(ref.get("split"), str):
            raise ConfigError(f"{where} has no split. It needs train, val, test, testA or testB.")
        found[ref["split"]] += 1
        if ref["split"] in splits:
            yield where, ref
    absent = [split for split in splits if not found[split]]
    if absent:
        there = ", ".join(f"{split} ({count:,})" for split, count in sorted(found.items())) or "none"
        raise ConfigError(
            f"{name} has no reference of split {absent[0]!r}. Its splits are {there}. Choose one with --split."
        )


def _annotation_of(ref: Mapping[str, Any], tables: CocoTables, where: str) -> int:
    annotation_id, known = ref.get("ann_id"), tables.annotations
    if not isinstance(annotation_id, int) or annotation_id not in known:
        raise ConfigError(
            f"{where} names ann_id {shown(annotation_id)}, which is not in {INSTANCES_NAME}. The two files must "
            "belong to one dataset."
        )
    if _path_of(ref, tables, where) != known[annotation_id].path:
        raise ConfigError(
            f"{where} names image_id {shown(ref.get('image_id'))}, but its annotation {annotation_id} belongs to "
            "another image. The two files must belong to one dataset."
        )
    return annotation_id


def _path_of(ref: Mapping[str, Any], tables: CocoTables, where: str) -> str:
    image_id = ref.get("image_id")
    path = tables.paths.get(image_id) if isinstance(image_id, int | str) else None
    if path is None:
        raise ConfigError(
            f"{where} names image_id {shown(image_id)}, which is not in {INSTANCES_NAME}. The two files must belong to "
            "one dataset."
        )
    return path


def _sentences(ref: Mapping[str, Any], where: str) -> list[Any]:
    sentences = ref.get("sentences")
    if not isinstance(sentences, list | tuple) or not all(isinstance(each, dict) for each in sentences):
        raise ConfigError(f"{where} has the sentences {shown(sentences)}. A list of dicts with `sent` is needed.")
    return [each["sent"] if "sent" in each else each.get("raw") for each in sentences]


def read_annotation(request: ImportRequest) -> Annotation:
    """Return the content of the annotation's files; `label_studio.correct_run` reads those of Label Studio.

    They are read into memory whole, and take about eight times their size there (measured: docs/guides/imports.md). A
    missing, damaged or hostile file, or one of another format, is a ConfigError, a failure of storage a TransientError.
    """
    if request.format == "coco":
        data, name = read_named_file(request.annotation, request.config)
        captions, captions_name = read_named_file(request.captions, request.config) if request.captions else (None, "")
        return read_coco(data, name, captions, captions_name)
    folder, name = _locate(request.annotation, request.config)
    splits = request.chosen_splits
    if request.format == "phrasecut":
        if name and request.splits:
            raise ConfigError(
                f"ANNOTATION {request.annotation!r} is the file of one split. Leave --split out, or give its folder."
            )
        names = [name] if name else [FILE_NAME.format(split=split) for split in splits]
        return read_phrasecut({each: _read(folder, each, _PHRASECUT) for each in names})
    if request.format == "reasonseg":
        if name:
            raise ConfigError(
                f"ANNOTATION {request.annotation!r} is a file. Give ReasonSeg's folder, which has {splits[0]}/."
            )
        return read_reason(_reason_files(folder, splits))
    if name and request.split_by is not None:
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is a file, and --split-by chooses a file of a folder. Leave "
            "--split-by out."
        )
    is_gref, form = request.format == "grefcoco", _REFS_FORMS[request.format]
    if name and not name.lower().endswith(PurePath(form).suffix):
        wanted = (
            "gRefCOCO's folder, nor its grefs(…).json"
            if is_gref
            else "the folder of a REFER dataset, nor its refs(…).p"
        )
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is neither {wanted}, "
            "nor a COCO .json file. Name one of these, or give --format coco."
        )
    refs_name = name or _refs_in(folder, request.split_by, form, "gRefCOCO" if is_gref else "a REFER dataset")
    instances = _read(folder, INSTANCES_NAME, _GREF if is_gref else _REFER)
    read = read_gref if is_gref else read_refer
    return read(_read(folder, refs_name), instances, refs_name=refs_name, splits=splits)


def read_named_file(given: str, config: RunConfig) -> tuple[bytes, str]:
    """Return the bytes and the name of the JSON file at a path or url; a ConfigError if there is none."""
    folder, name = _locate(given, config)
    if not name:
        raise ConfigError(f"{folder.describe()} is a folder. Name the JSON file in it.")
    return _read(folder, name), name


def _locate(given: str, config: RunConfig) -> tuple[SourceRoot, str]:
    """Return the folder of an annotation's file, and the file's name; "" if a folder is given."""
    given = refuse_secrets(given).rstrip("/")
    whole = root_at(given, config.source, config.placement.storage)
    kind = whole.kind("")
    if kind is None:
        raise ConfigError(f"{given!r} does not exist. Check the path, or the url and the credentials.")
    if kind == "folder":
        return whole, ""
    folder, _, name = given.rpartition("/")
    return root_at(folder or ("/" if given.startswith("/") else "."), config.source, config.placement.storage), name


def _refs_in(folder: SourceRoot, split_by: str | None, form: str, dataset: str) -> str:
    found = [file.path for file in folder.storage.walk(lambda _: False) if fnmatchcase(file.path, form.format("?*"))]
    wanted = found if split_by is None else [name for name in found if name == form.format(split_by)]
    if len(wanted) == 1:
        return wanted[0]
    if found:
        raise ConfigError(
            f"{folder.describe()} has {', '.join(found)}. Choose one: give the name in its brackets as --split-by."
        )
    raise ConfigError(
        f"ANNOTATION {folder.describe()} has no {form.format('<splitBy>')}, which {dataset} has beside "
        f"{INSTANCES_NAME}. Name the folder that holds it; for COCO JSON the .json file itself; for others give "
        "--format phrasecut, grefcoco or reasonseg."
    )


def _reason_files(folder: SourceRoot, splits: Sequence[str]) -> dict[str, bytes]:
    found = folder.storage.walk(lambda parts: len(parts) == 1 and parts[0] in splits)
    chosen = [file.path for file in found if file.path.endswith(".json") and "/" in file.path]
    for split in splits:
        if not any(path.startswith(f"{split}/") for path in chosen):
            raise ConfigError(
                f"{folder.describe()} has no {split}/*.json. ReasonSeg's folder has train, val and test, each with its "
                "images and their JSON files."
            )
    return dict(zip(chosen, map_in_threads(folder.read, chosen, folder.storage.max_readers), strict=True))


def _read(folder: SourceRoot, name: str, layout: str = _REFER) -> bytes:
    uri = folder.describe(name)
    try:
        return folder.read(name)
    except FileNotFoundError:
        raise ConfigError(f"{uri} does not exist. {layout}") from None


FILE_NAME: Final = "refer_{split}.json"
_SPLIT: Final = re.compile(r"refer_(\w+)\.json")
_MIN_POINTS: Final = 3


def read_phrasecut(files: Mapping[str, bytes]) -> Annotation:
    """Return the phrases of files of tasks, by name: a phrase's split is in its file's.

    Equal instances of an image are one mask, whichever phrases name them. A file that is not PhraseCut's is a
    ConfigError, which names the task.
    """
    left_out = Counter[str]()
    masks: defaultdict[str, dict[str, HumanMask]] = defaultdict(dict)
    phrases: defaultdict[str, _Phrases] = defaultdict(dict)
    for name, data in files.items():
        match = _SPLIT.fullmatch(name)
        tasks = read_json(data, name)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ConfigError(f"{name} is not a list of PhraseCut's tasks. Give refer_{{train,val,test,miniv}}.json.")
        for place, task in enumerate(tasks):
            where, number = f"{name}: task {place}", task.get("image_id")
            if not isinstance(number, int) or isinstance(number, bool):
                raise ConfigError(
                    f"{where} has the image_id {shown(number)}. A whole number of Visual Genome is needed."
                )
            path = f"{number}.jpg"
            known, targets = masks[path], set[int]()
            for polygons in _instances(task, left_out, where):
                index = len(known)
                targets.add(known.setdefault(json.dumps(polygons), HumanMask(index, index, polygons)).index)
            if not targets:
                left_out["phrases without an instance"] += 1
                continue
            for text in clean_texts([task.get("phrase")], left_out, where=where):
                phrase = HumanPhrase(tuple(sorted(targets)), text, match[1] if match else None)
                left_out["repeated phrases of the same instances"] += (phrase.targets, text) in phrases[path]
                phrases[path].setdefault((phrase.targets, text), phrase)
    images = tuple(
        HumanImage(path, None, tuple(masks[path].values()), tuple(said.values())) for path, said in phrases.items()
    )
    return Annotation(images, {name: sha256_hex(data) for name, data in files.items()}, +left_out)


def _instances(task: Mapping[str, Any], left_out: Counter[str], where: str) -> list[list[list[Any]]]:
    """Return the polygons of each instance in COCO's form; their numbers are unchecked."""
    if "Polygons" not in task:
        raise ConfigError(f"{where} has no Polygons. Files refer_input_… are questions alone: give refer_….json.")
    instances = task["Polygons"]
    try:
        polygons = [[[(x, y) for x, y in polygon] for polygon in instance] for instance in instances]
    except (TypeError, ValueError):
        raise ConfigError(f"{where} has Polygons of another form than [instance][polygon][point][x, y].") from None
    few = sum(len(polygon) < _MIN_POINTS for instance in polygons for polygon in instance)
    left_out["polygons of fewer than three points"] += few
    return [
        [[value for point in polygon for value in point] for polygon in instance if len(polygon) >= _MIN_POINTS]
        for instance in polygons
    ]
