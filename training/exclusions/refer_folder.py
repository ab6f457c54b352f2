"""The images of the splits of REFER datasets: RefCOCO, RefCOCO+, RefCOCOg, or another of that layout.

`--exclude` takes the held-out splits, `--only` the split train of one file of references.

The three share the images of MS-COCO's train2014, and each is split in its own way: an image that one trains on may be
tested on by another. So the union over all of them is excluded, whichever of them is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.exclusion_records import SHARED_DATASETS
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.regular_files import read_regular
from pseudoris.store.files.storage_errors import storage_errors
from pseudoris.store.sources.exclusions import Exclusions, coco_id, exclusion, name_value
from pseudoris.training.untrusted_pickle import read_refs

TRAIN_SPLIT: Final = "train"
# In the settings of every rule, whichever of them a dataset has: so it is the rule that earlier versions recorded.
_USUAL_SPLITS: Final = ("val", "test", "testA", "testB")
_PATTERN: Final = "refs(*).p"
_INSTANCES: Final = "instances.json"


def refer_files(folder: Path) -> list[Path]:
    """Return the files of references in a folder; where there is none, one or two levels below it.

    Of RefCOCO, RefCOCO+ and RefCOCOg, also those of the other two beside it.
    """
    place = folder.resolve()
    own = sorted(place.glob(_PATTERN))
    if own and place.name in SHARED_DATASETS:
        return sorted(path for name in SHARED_DATASETS for path in place.with_name(name).glob(_PATTERN))
    return _files_below(place)


def _files_below(place: Path) -> list[Path]:
    return next((found for level in ("", "*/", "*/*/") if (found := sorted(place.glob(level + _PATTERN)))), [])


def read_refer_folder(folder: Path) -> Exclusions:
    """Return one rule: the images of all splits but `train`, of all files of references.

    Args:
        folder: Of one dataset, or the folder of several.

    Raises:
        ConfigError: A file is none of REFER's, or no file has a reference of another split.
        TransientError: Storage failed.
    """
    values: set[str] = set()
    digests: dict[str, str] = {}
    splits: set[str] = set()
    # The names of files begin with that of their dataset, also where it is given itself.
    root = folder.resolve().parent
    for path in refer_files(folder):
        refs = read_refs(path)
        splits |= {str(ref["split"]) for ref in refs}
        held_out = [ref for ref in refs if ref["split"] != TRAIN_SPLIT]
        digests[_name(path, root)] = sha256_hex(read_regular(path))
        values.update(name_value(name) for name in _file_names(path, held_out, digests, root))
    if not values:
        there = ", ".join(sorted(splits)) or "none"
        raise ConfigError(
            f"--exclude {folder}: its refs(…).p have no reference of a split that is held out. Their splits are: "
            f"{there}. Leave it out, or list the names of the images in a text file."
        )
    settings: dict[str, JsonValue] = {"splits": [*_USUAL_SPLITS, *sorted(splits - {TRAIN_SPLIT, *_USUAL_SPLITS})]}
    return exclusion("refer", folder.resolve().name, values, files=digests, settings=settings)


def read_train_images(path: Path) -> Exclusions:
    """Return one rule `only`: the images of the split `train` of one file of references.

    Args:
        path: The file, or a folder that has no other.

    Raises:
        ConfigError: It is none of REFER's, there are several, or it has no reference of `train`.
        TransientError: Storage failed.
    """
    files = [path.resolve()] if path.is_file() else _files_below(path.resolve())
    if len(files) != 1:
        found = ", ".join(str(each.relative_to(path.resolve())) for each in files) or "no refs(…).p"
        raise ConfigError(
            f"--only {path} has {found}. Give one file of references, or a folder that has one: of several, each has a "
            "split train of its own. --only can be repeated."
        )
    (file,) = files
    refs, root = read_refs(file), file.parent.parent
    digests = {_name(file, root): sha256_hex(read_regular(file))}
    train = [ref for ref in refs if ref["split"] == TRAIN_SPLIT]
    values = {name_value(name) for name in _file_names(file, train, digests, root)}
    if not values:
        there = ", ".join(sorted({str(ref["split"]) for ref in refs})) or "none"
        raise ConfigError(f"--only {path} has no reference of the split {TRAIN_SPLIT}. Its splits are: {there}.")
    return exclusion("only", f"{TRAIN_SPLIT} of {_name(file, root)}", values, files=digests)


def _file_names(path: Path, refs: list[dict[str, Any]], digests: dict[str, str], root: Path) -> Iterator[str]:
    """Yield the name of each reference's image; `instances.json` is read only where a pickle does not tell it."""
    names: Mapping[Any, str] | None = None
    for ref in refs:
        name = ref.get("file_name")
        # RefCOCO's pickles append the number of the object: COCO_train2014_000000581857_16.jpg.
        if isinstance(name, str) and coco_id(name.replace("\\", "/").rpartition("/")[2]) is not None:
            yield name
            continue
        if names is None:
            instances = path.parent / _INSTANCES
            names = _image_names(instances, path)
            digests[_name(instances, root)] = sha256_hex(read_regular(instances))
        if ref["image_id"] not in names:
            raise ConfigError(
                f"{path}: reference {ref['ref_id']} names image_id {ref['image_id']!r}, which is not in {_INSTANCES} "
                "beside it. Give the two files of one dataset."
            )
        yield names[ref["image_id"]]


def _image_names(instances: Path, refs: Path) -> dict[Any, str]:
    try:
        with storage_errors("read", str(instances)):
            data = read_regular(instances)
        return {image["id"]: str(image["file_name"]) for image in parse_json(data)["images"]}
    except FileNotFoundError:
        raise ConfigError(
            f"{refs} has references without a COCO file name, and there is no {instances}. Put it beside refs(…).p, or "
            "list the names of the images in a text file."
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{instances} is not an instances.json with images that have id and file_name: {error!r}"
        ) from error


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
