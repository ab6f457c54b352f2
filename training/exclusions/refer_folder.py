"""The images of the held-out splits of REFER datasets: RefCOCO, RefCOCO+, RefCOCOg, or another of that layout.

The three share the images of MS-COCO's train2014, and each is split in its own way: an image that one trains on may be
tested on by another. So the union over all of them is excluded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.files.storage_errors import storage_errors
from pseudoris.store.sources.exclusions import Exclusions, coco_id, exclusion, name_value
from pseudoris.training.untrusted_pickle import read_refs

HELD_OUT_SPLITS: Final = ("val", "test", "testA", "testB")
_PATTERN: Final = "refs(*).p"
_INSTANCES: Final = "instances.json"


def refer_files(folder: Path) -> list[Path]:
    """Return the files of references in a folder; where there is none, in the folders directly below it."""
    return sorted(folder.glob(_PATTERN)) or sorted(folder.glob(f"*/{_PATTERN}"))


def read_refer_folder(folder: Path) -> Exclusions:
    """Return one rule: the images of the held-out splits of all files of references.

    Args:
        folder: Of one dataset, or the folder of several.

    Raises:
        ConfigError: A file is none of REFER's, or no file has a reference of these splits.
        TransientError: Storage failed.
    """
    values: set[str] = set()
    digests: dict[str, str] = {}
    splits: set[str] = set()
    for path in refer_files(folder):
        refs = read_refs(path)
        splits |= {str(ref["split"]) for ref in refs}
        held_out = [ref for ref in refs if ref["split"] in HELD_OUT_SPLITS]
        digests[_name(path, folder)] = sha256_hex(path.read_bytes())
        values.update(name_value(name) for name in _file_names(path, held_out, digests, folder))
    if not values:
        there = ", ".join(sorted(splits)) or "none"
        raise ConfigError(
            f"--exclude {folder}: its refs(…).p have no reference of {', '.join(HELD_OUT_SPLITS)}. Their splits are: "
            f"{there}. Leave it out, or list the names of the images in a text file."
        )
    settings: dict[str, JsonValue] = {"splits": list(HELD_OUT_SPLITS)}
    return exclusion("refer", folder.resolve().name, values, files=digests, settings=settings)


def _file_names(path: Path, refs: list[dict[str, Any]], digests: dict[str, str], folder: Path) -> Iterator[str]:
    """Yield the name of each reference's image; `instances.json` is read only where a pickle does not tell it."""
    names: Mapping[Any, str] | None = None
    for ref in refs:
        name = ref.get("file_name")
        # RefCOCO's pickles append the number of the object: COCO_train2014_000000581857_16.jpg.
        if isinstance(name, str) and coco_id(name.rpartition("/")[2]) is not None:
            yield name
            continue
        if names is None:
            instances = path.parent / _INSTANCES
            names = _image_names(instances, path)
            digests[_name(instances, folder)] = sha256_hex(instances.read_bytes())
        if ref["image_id"] not in names:
            raise ConfigError(
                f"{path}: reference {ref['ref_id']} names image_id {ref['image_id']!r}, which is not in {_INSTANCES} "
                "beside it. Give the two files of one dataset."
            )
        yield names[ref["image_id"]]


def _image_names(instances: Path, refs: Path) -> dict[Any, str]:
    try:
        with storage_errors("read", str(instances)), instances.open("rb") as file:
            return {image["id"]: str(image["file_name"]) for image in json.load(file)["images"]}
    except FileNotFoundError:
        raise ConfigError(
            f"{refs} has references without a COCO file name, and there is no {instances}. Put it beside refs(…).p, or "
            "list the names of the images in a text file."
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{instances} is not an instances.json with images that have id and file_name: {error!r}"
        ) from error


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
