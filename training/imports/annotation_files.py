"""Finds and reads the annotation that `import_run` turns into a run: COCO's JSON, REFER, or PhraseCut.

REFER, which RefCOCO and its kin have, is `refs(<splitBy>).p`, a pickle, next to `instances.json`. `sent` of a sentence
is read, which most trainers use, or `raw` if it is missing. Only objects with a reference in the requested splits are
read. The pickle's file names are ignored, as usual for this format.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import clean_text
from pseudoris.schemas.uris import refuse_secrets
from pseudoris.store.sources.root import SourceRoot, root_at
from pseudoris.training.imports.coco_annotation import AnnotationEntry, CocoTables, read_coco, read_coco_tables
from pseudoris.training.imports.human_annotation import (
    Annotation,
    HumanImage,
    HumanMask,
    HumanPhrase,
    clean_texts,
    read_json,
    shown,
)
from pseudoris.training.untrusted_pickle import load_plain

if TYPE_CHECKING:
    from pseudoris.training.imports.import_run import ImportRequest

INSTANCES_NAME: Final = "instances.json"
# A sentence, unchecked, and the split of its reference.
_Said = tuple[Any, str]
_PICKLE: Final = ".p"
_REFER: Final = f"A REFER dataset has refs(<splitBy>).p beside {INSTANCES_NAME}."
_PHRASECUT: Final = "PhraseCut has refer_train.json, refer_val.json, refer_test.json and refer_miniv.json."
_REFS_NAME: Final = re.compile(r"^refs\((.+)\)\.p$")


def read_refer(refs: bytes, instances: bytes, *, refs_name: str, splits: Sequence[str]) -> Annotation:
    """Return the objects of the references of `splits`, and their images, out of the whole pickle and instances."""
    tables = read_coco_tables(instances, INSTANCES_NAME)
    sentences: defaultdict[int, list[_Said]] = defaultdict(list)
    for annotation_id, said in _chosen(load_plain(refs, refs_name), tables, refs_name, splits):
        sentences[annotation_id] += said
    left_out = Counter({"objects without a reference in these splits": len(tables.annotations) - len(sentences)})
    masks: defaultdict[str, list[HumanMask]] = defaultdict(list)
    phrases: defaultdict[str, list[HumanPhrase]] = defaultdict(list)
    for entry in tables.annotations:
        own = sentences.get(entry.annotation_id)
        if own is not None:
            where = f"{refs_name}: a sentence of annotation {entry.annotation_id}"
            texts = clean_texts((sentence for sentence, _ in own), left_out, where=where)
            # A text of two splits, which no dataset has, counts in the first.
            split_of = {clean_text(sentence): split for sentence, split in reversed(own)}
            masks[entry.path].append(entry.mask)
            phrases[entry.path] += (HumanPhrase((entry.index,), text, split_of[text]) for text in texts)
    images = tuple(
        HumanImage(path, tables.sizes[path], tuple(found), tuple(phrases[path])) for path, found in masks.items()
    )
    digests = {refs_name: sha256_hex(refs), INSTANCES_NAME: sha256_hex(instances)}
    return Annotation(images, digests, +left_out)


def _chosen(refs: Any, tables: CocoTables, name: str, splits: Sequence[str]) -> Iterator[tuple[int, list[_Said]]]:
    """Yield annotation id and sentences of each reference of the splits."""
    if not isinstance(refs, list):
        raise ConfigError(f"{name} has {shown(refs)}. A list of references is needed.")
    known = {entry.annotation_id: entry for entry in tables.annotations}
    found: Counter[str] = Counter()
    for place, ref in enumerate(refs):
        where = f"{name}: reference {place}"
        if not isinstance(ref, dict) or not isinstance(ref.get("split"), str):
            raise ConfigError(f"{where} has no split. It needs train, val, test, testA or testB.")
        found[ref["split"]] += 1
        if ref["split"] in splits:
            said = [(sentence, ref["split"]) for sentence in _sentences(ref, where)]
            yield _annotation_of(ref, known, tables, where), said
    absent = [split for split in splits if not found[split]]
    if absent:
        there = ", ".join(f"{split} ({count:,})" for split, count in sorted(found.items())) or "none"
        raise ConfigError(
            f"{name} has no reference of split {absent[0]!r}. Its splits are {there}. Choose one with --split."
        )


def _annotation_of(ref: Mapping[str, Any], known: Mapping[int, AnnotationEntry], tables: CocoTables, where: str) -> int:
    annotation_id, image_id = ref.get("ann_id"), ref.get("image_id")
    if not isinstance(annotation_id, int) or annotation_id not in known:
        raise ConfigError(
            f"{where} names ann_id {shown(annotation_id)}, which is not in {INSTANCES_NAME}. The two files must "
            "belong to one dataset."
        )
    path = tables.paths.get(image_id) if isinstance(image_id, int | str) else None
    if path != known[annotation_id].path:
        raise ConfigError(
            f"{where} names image_id {shown(image_id)}, but its annotation {annotation_id} belongs to another image. "
            "The two files must belong to one dataset."
        )
    return annotation_id


def _sentences(ref: Mapping[str, Any], where: str) -> list[Any]:
    sentences = ref.get("sentences")
    if not isinstance(sentences, list | tuple) or not all(isinstance(each, dict) for each in sentences):
        raise ConfigError(f"{where} has the sentences {shown(sentences)}. A list of dicts with `sent` is needed.")
    return [each["sent"] if "sent" in each else each.get("raw") for each in sentences]


def read_annotation(request: ImportRequest) -> Annotation:
    """Return the content of the annotation's files.

    They are read into memory whole, and take about eight times their size there (measured: docs/imports.md).

    Raises:
        ConfigError: A file is missing, damaged, hostile or of another format.
        TransientError: The storage failed.
    """
    if request.format == "coco":
        data, name = _read_named(request.annotation, request.config)
        captions, captions_name = _read_named(request.captions, request.config) if request.captions else (None, "")
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
    if name and request.split_by is not None:
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is a file, and --split-by chooses a file of a folder. Leave "
            "--split-by out."
        )
    if name and not name.lower().endswith(_PICKLE):
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is neither the folder of a REFER dataset, nor its refs(…){_PICKLE}, "
            "nor a COCO .json file. Name one of these, or give --format coco."
        )
    refs_name = name or _refs_in(folder, request.split_by)
    instances = _read(folder, INSTANCES_NAME)
    return read_refer(_read(folder, refs_name), instances, refs_name=refs_name, splits=splits)


def _read_named(given: str, config: RunConfig) -> tuple[bytes, str]:
    folder, name = _locate(given, config)
    if not name:
        raise ConfigError(f"{folder.describe()} is a folder. Name the COCO JSON file in it.")
    return _read(folder, name), name


def _locate(given: str, config: RunConfig) -> tuple[SourceRoot, str]:
    """Return the folder of an annotation's file, and the file in there; "" where a folder is given itself."""
    given = refuse_secrets(given).rstrip("/")
    whole = root_at(given, config.source, config.placement.storage)
    kind = whole.kind("")
    if kind is None:
        raise ConfigError(f"ANNOTATION {given!r} does not exist. Check the path, or the url and the credentials.")
    if kind == "folder":
        return whole, ""
    folder, _, name = given.rpartition("/")
    return root_at(folder or ("/" if given.startswith("/") else "."), config.source, config.placement.storage), name


def _refs_in(folder: SourceRoot, split_by: str | None) -> str:
    found = [file.path for file in folder.storage.walk(lambda _: False) if _REFS_NAME.match(file.path)]
    wanted = found if split_by is None else [name for name in found if name == f"refs({split_by}).p"]
    if len(wanted) == 1:
        return wanted[0]
    if found:
        raise ConfigError(
            f"{folder.describe()} has {', '.join(found)}. Choose one: give the name in its brackets as --split-by."
        )
    raise ConfigError(
        f"ANNOTATION {folder.describe()} has no refs(<splitBy>).p, which a REFER dataset has beside {INSTANCES_NAME}. "
        "Name the folder that holds it; for COCO JSON the .json file itself; for PhraseCut give --format phrasecut."
    )


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
    phrases: defaultdict[str, dict[HumanPhrase, None]] = defaultdict(dict)
    for name, data in files.items():
        match = _SPLIT.fullmatch(name)
        tasks = read_json(data, name)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ConfigError(f"{name} is not a list of PhraseCut's tasks. Give refer_{{train,val,test,miniv}}.json.")
        for place, task in enumerate(tasks):
            where = f"{name}: task {place}"
            path = _path(task, where)
            known, targets = masks[path], set[int]()
            for polygons in _instances(task, left_out, where):
                index = len(known)
                targets.add(known.setdefault(json.dumps(polygons), HumanMask(index, index, polygons)).index)
            if not targets:
                left_out["phrases without an instance"] += 1
                continue
            for text in clean_texts([task.get("phrase")], left_out, where=where):
                phrase = HumanPhrase(tuple(sorted(targets)), text, match[1] if match else None)
                left_out["repeated phrases of the same instances"] += phrase in phrases[path]
                phrases[path][phrase] = None
    images = tuple(HumanImage(path, None, tuple(masks[path].values()), tuple(said)) for path, said in phrases.items())
    return Annotation(images, {name: sha256_hex(data) for name, data in files.items()}, +left_out)


def _path(task: Mapping[str, Any], where: str) -> str:
    number = task.get("image_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConfigError(f"{where} has the image_id {shown(number)}. A whole number of Visual Genome is needed.")
    return f"{number}.jpg"


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
