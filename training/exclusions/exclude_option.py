"""The values of `--exclude` and `--only` to rules: what a path is decides how it is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE, HASH_BITS, require_imagehash
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.exclusion_records import missing_phrase
from pseudoris.schemas.uris import named_path
from pseudoris.store.sources.exclusions import Exclusions, all_rules, exclusion
from pseudoris.training.exclusions.hash_table import TABLE_SUFFIXES, read_hash_table
from pseudoris.training.exclusions.image_folder import read_image_folder
from pseudoris.training.exclusions.name_list import read_name_list
from pseudoris.training.exclusions.refer_folder import read_refer_folder, read_train_images, refer_files

_KINDS: Final = (
    "a folder of a REFER dataset (refs(…).p), a folder of images, a text file of names or COCO ids, or a .parquet or "
    ".csv with a column sha256 or phash"
)
_ONLY_KINDS: Final = (
    "a text file of names or COCO ids, or a REFER folder or refs(…).p for the images of its split train"
)
_PICKLES: Final = frozenset({".p", ".pkl", ".pickle"})
logger = logging.getLogger(__name__)


def read_exclusions(values: Sequence[str], max_distance: int | None = None, only: Sequence[str] = ()) -> Exclusions:
    """Return the rule of `--only` and the rules of all values of `--exclude`, in their order, each once.

    Args:
        values: Local paths.
        max_distance: Most bits in which the perceptual hashes of two copies differ; None is `DEFAULT_MAX_DISTANCE`.
        only: Local paths of `--only`. The images that they name together are taken, all others left out.

    Raises:
        ConfigError: A value is none of the kinds, a file is not as it should be, or a package is missing.
        TransientError: Storage failed.
    """
    distance = DEFAULT_MAX_DISTANCE if max_distance is None else max_distance
    # Of two unrelated images half of the bits differ.
    if not 0 <= distance < HASH_BITS // 2:
        raise ConfigError(
            f"--exclude-distance {distance} is not possible: give 0 (equal hashes) to {HASH_BITS // 2 - 1}"
        )
    found = all_rules([_read_only(only), *(_read(value, distance) for value in values)])
    if any(rule.kind == "phash" for rule in found.rules):
        require_imagehash()
    elif max_distance is not None:
        raise ConfigError("--exclude-distance needs an --exclude with perceptual hashes: images, or a table of phash")
    if missing := missing_phrase(found.rules):
        logger.warning(
            "--exclude: %s. A model that is tested on them may have seen their images. Put the datasets side by side "
            "in one folder",
            missing,
        )
    return found


def as_exclusions(exclude: Exclusions | str | Sequence[str], max_distance: int | None = None) -> Exclusions:
    """Return what an argument `exclude` of the Python API names; raises as `read_exclusions`."""
    if isinstance(exclude, Exclusions):
        return exclude
    return read_exclusions([exclude] if isinstance(exclude, str) else exclude, max_distance)


def _read_only(values: Sequence[str]) -> Exclusions:
    named = [_read_wanted(value) for value in dict.fromkeys(values)]
    if not named:
        return Exclusions()
    rules = [rule for each in named for rule in each.rules]
    files = {name: digest for rule in rules for name, digest in rule.files.items()}
    wanted = frozenset[str]().union(*(values for each in named for values in each.values))
    return exclusion("only", ", ".join(rule.name for rule in rules), wanted, files=files)


def _read_wanted(value: str) -> Exclusions:
    path = _local_path(value, "--only", _ONLY_KINDS)
    if path.is_dir() or path.suffix.lower() in _PICKLES:
        return read_train_images(path)
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise ConfigError(f"--only {value!r} is a table. Images are taken by name: give {_ONLY_KINDS}.")
    return read_name_list(path)


def _local_path(value: str, option: str, kinds: str) -> Path:
    if "://" in value:
        raise ConfigError(f"{option} {value!r} is a url: copy it to this machine. A run keeps what it read of it.")
    path = named_path(value)
    if not path.exists():
        raise ConfigError(f"{option} {value!r} does not exist. Give {kinds}.")
    return path


def _read(value: str, max_distance: int) -> Exclusions:
    path = _local_path(value, "--exclude", _KINDS)
    if path.is_dir():
        return read_refer_folder(path) if refer_files(path) else read_image_folder(path, max_distance)
    if path.suffix.lower() in _PICKLES:
        raise ConfigError(f"--exclude {value!r} is a pickle. Give its folder: all refs(…).p in it are read.")
    return read_hash_table(path, max_distance) if path.suffix.lower() in TABLE_SUFFIXES else read_name_list(path)
