"""Turns values of `--exclude` and `--only` into rules. Called by `cli`, `dataset`, `pseudoris`, examples.

A rule follows from the content of the files alone, because it is part of a run's identity. The files are untrusted, and
a path of an unknown kind is refused. A table of hashes is Parquet or CSV with a column `sha256` of encoded bytes, a
column `phash`, or both; run as a module, this one writes it from a folder of images. The rule, its matcher and a run's
own record are in `store/exclusion_rules.py`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from pseudoris.files.storage import storage_errors
from pseudoris.images.parquet_pages import read_columns
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE, HASH_BITS, HASH_HEX_DIGITS
from pseudoris.images.prover import Prover
from pseudoris.interchange.untrusted_pickle import read_refs
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError, check_number
from pseudoris.primitives.untrusted import parse_json, read_regular
from pseudoris.primitives.uris import named_path, one_or_several, place
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.exclusion_rules import (
    SHARED_DATASETS,
    ExclusionRule,
    Exclusions,
    beyond,
    coco_id,
    exclusion,
    missing_phrase,
    name_value,
)
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.source import open_source

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
    """Return the rule of `--only` and the rules of all values of `--exclude`, local paths, in their order, each once.

    The images that the paths of `only` name together are taken, all others left out. `max_distance` is the most bits in
    which the perceptual hashes of two copies differ; None is `DEFAULT_MAX_DISTANCE`.
    """
    # The limit is below half of the bits, because hashes of unrelated images differ in half of their bits on average.
    check_number("--exclude-distance", max_distance, 0, HASH_BITS // 2 - 1)
    distance = DEFAULT_MAX_DISTANCE if max_distance is None else max_distance
    taken: Exclusions = ()
    if wanted := [rule for value in dict.fromkeys(only) for rule in _read_wanted(value)]:
        files = {name: digest for rule in wanted for name, digest in rule.files.items()}
        every = frozenset[str]().union(*(rule.values for rule in wanted))
        taken = exclusion("only", ", ".join(rule.name for rule in wanted), every, files=files)
    read = (taken, *(_read(value, distance) for value in values))
    found = beyond((rule for rules in read for rule in rules), ())
    if max_distance is not None and not any(rule.kind == "phash" for rule in found):
        raise ConfigError("--exclude-distance needs an --exclude with perceptual hashes: images, or a table of phash")
    if missing := missing_phrase(found):
        logger.warning(
            "--exclude: %s. A model that is tested on them may have seen their images. Put the datasets side by side "
            "in one folder",
            missing,
        )
    return found


def as_exclusions(exclude: Exclusions | str | Path | Sequence[str | Path]) -> Exclusions:
    """Return what an argument `exclude` of the Python API names, paths or rules."""
    given = one_or_several(exclude)
    paths = [place(each, "exclude") for each in given if not isinstance(each, ExclusionRule)]
    return tuple(each for each in given if isinstance(each, ExclusionRule)) + (read_exclusions(paths) if paths else ())


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


_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


def read_name_list(path: Path) -> Exclusions:
    """Return one rule: the names and ids of the lines. Empty lines and lines that begin with # are left out."""
    with storage_errors("read", str(path)):
        data = read_regular(path)
    values = set[str]()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        text = line.decode(errors="surrogateescape").strip()
        if text and not text.startswith("#"):
            if wrong := _wrong(text):
                raise ConfigError(f"{path}: line {number} {wrong}.")
            values.add(name_value(text))
    if not values:
        raise ConfigError(f"{path} lists nothing. Write a file name or a COCO id on each line.")
    return exclusion("names", path.name, values, files={path.name: sha256_hex(data)})


def _wrong(name: str) -> str | None:
    """Return what makes a line no name, and the remedy."""
    if any("\udc80" <= letter <= "\udcff" for letter in name):
        return "is not UTF-8. Write names as UTF-8 text; give images as a folder"
    if not name.isprintable():
        return f"has the control characters of {name[:60]!r}. Write one name a line, nothing else"
    if _DIGEST.fullmatch(name):
        return f"is the sha256 {name}. Put digests into a .csv with the column sha256"
    if not name.replace("\\", "/").strip("/"):
        return f"is {name!r}, not a name. Write the name of a file, or a COCO id"
    return None


TRAIN_SPLIT: Final = "train"
# Every rule lists these splits, whether or not the dataset has them, so that equal images give equal rules.
_USUAL_SPLITS: Final = ("val", "test", "testA", "testB")
_PATTERN: Final = "refs(*).p"
_INSTANCES: Final = "instances.json"


def refer_files(folder: Path) -> list[Path]:
    """Return the files of references in a folder; if it has none, those one or two levels below it.

    RefCOCO, RefCOCO+ and RefCOCOg share their images, so the files of the other two beside the folder are returned too.
    """
    place = folder.resolve()
    own = sorted(place.glob(_PATTERN))
    if own and place.name in SHARED_DATASETS:
        return sorted(path for name in SHARED_DATASETS for path in place.with_name(name).glob(_PATTERN))
    return _files_below(place)


def _files_below(place: Path) -> list[Path]:
    return next((found for level in ("", "*/", "*/*/") if (found := sorted(place.glob(level + _PATTERN)))), [])


def read_refer_folder(folder: Path) -> Exclusions:
    """Return one rule: the images of all splits but `train`, of all references of one dataset or of several."""
    values: set[str] = set()
    digests: dict[str, str] = {}
    splits: set[str] = set()
    # Recorded names are relative to the parent, so they have the dataset's name even if `folder` is the dataset's own.
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
    """Return one rule `only`: the images of the split `train` of one file of references, or of the one in a folder."""
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
        # `coco_id` also reads RefCOCO's names, which end with the object's number: COCO_train2014_000000581857_16.jpg.
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


_WRITES_HASHES: Final = (
    "`python -m pseudoris.interchange.exclusions FOLDER TABLE`: writes the table of hashes that `--exclude` reads. For "
    "whoever owns a benchmark and gives away its hashes, not its images. Called by `training/exclusions.py`."
)
TABLE_SUFFIXES: Final = frozenset({".parquet", ".csv"})
COLUMNS: Final = ("sha256", "phash")
_MEANING: Final = {
    "sha256": (64, "the sha256 of an encoded image"),
    "phash": (HASH_HEX_DIGITS, "a perceptual hash as imagehash.phash(image) gives it"),
}


def read_hash_table(path: Path, max_distance: int) -> Exclusions:
    """Return a rule for each of the two columns that the table has; an empty value of one column is left out."""
    where = f"--exclude {path}"
    with storage_errors("read", str(path)):
        data = read_regular(path)
    try:
        if path.suffix.lower() == ".parquet":
            # If all wanted columns are missing, only the schema is read, for the message below.
            table = read_columns(data, COLUMNS, where=where)
        else:
            # Columns are read as text, because a hash that has only digits would be read as a number.
            options = pc.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
            table = pc.read_csv(pa.BufferReader(data), pc.ReadOptions(use_threads=False), convert_options=options)
        # Arrow decodes the names of columns here, so the error of a bad name must be caught here too.
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} cannot be read as csv: {error}. Write the file again.") from error
    columns = [name for name in COLUMNS if name in names]
    if not columns:
        there = ", ".join(map(repr, names[:8])) or "none"
        raise ConfigError(f"{where} has no column sha256 or phash; its columns are {there}. Rename one of them.")
    for name in columns:
        if names.count(name) > 1:
            raise ConfigError(f"{where} has the column {name} {names.count(name)} times. Keep one of them.")
    values = {name: _hashes(path, name, table[name]) for name in columns}
    if not any(values.values()):
        raise ConfigError(f"{where} has no row with a {' or '.join(columns)}. Leave it out, or fill it.")
    return hash_rules(path.name, values, max_distance, files={path.name: sha256_hex(data)})


def hash_rules(
    name: str, values: dict[str, set[str]], max_distance: int, *, files: dict[str, str] | None = None
) -> Exclusions:
    """Return a rule for each column that has a value."""
    found: Exclusions = ()
    if digests := values.get("sha256"):
        found += exclusion("sha256", name, digests, files=files)
    if hashes := values.get("phash"):
        found += exclusion("phash", name, hashes, files=files, settings={"max_distance": max_distance})
    return found


def _hashes(path: Path, column: str, found: Iterable[pa.Scalar]) -> set[str]:
    num_digits, meaning = _MEANING[column]
    pattern = re.compile(rf"[0-9a-f]{{{num_digits}}}")
    values: set[str] = set()
    for number, scalar in enumerate(found, start=1):
        value = scalar.as_py()
        text = value.strip().lower() if isinstance(value, str) else value
        if text is None or text == "":
            continue
        if not isinstance(text, str) or not pattern.fullmatch(text):
            raise ConfigError(
                f"--exclude {path}: row {number} has the {column} {str(value)[:80]!r}. {num_digits} hex digits are "
                f"needed: {meaning}. Correct the row, or leave the column out."
            )
        values.add(text)
    return values


def read_image_folder(folder: Path, max_distance: int) -> Exclusions:
    """Return two rules: by sha256, and by perceptual hash."""
    images = list(hash_images(folder))
    values = {"sha256": {sha256 for _, sha256, _ in images}, "phash": {phash for *_, phash in images if phash}}
    if not images:
        raise ConfigError(
            f"--exclude {folder}: none of its images can be read. Give the folder of a benchmark's images."
        )
    return hash_rules(folder.resolve().name, values, max_distance)


def hash_images(folder: Path) -> Iterator[tuple[str, str, str | None]]:
    """Yield key, sha256 and perceptual hash of the images of a folder, in the order of their keys.

    Those that cannot be read are logged and left out; of those that do not decode the hash is None.
    """
    config = load_config("tiny")
    source = open_source(str(folder), config.source)
    entries = assign_shards(source.list(), config.shards)
    with Prover(config.images.hashed()) as prover:
        for _, group in itertools.groupby(entries, key=lambda entry: entry.shard):
            shard = list(group)
            keys = {entry.position: entry.key for entry in shard}
            for position, outcome in read_entries(source.root, shard, config):
                if isinstance(outcome, ImageError):
                    logger.warning("%s is not excluded, it cannot be read: %s", keys[position], outcome)
                    continue
                try:
                    phash = str(prover.prove(outcome).phash)
                except ImageError as error:
                    logger.warning("%s is excluded by its sha256 alone, it does not decode: %s", keys[position], error)
                    phash = None
                yield keys[position], sha256_hex(outcome), phash


def main() -> int:
    """Write the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pseudoris.interchange.exclusions", description=_WRITES_HASHES)
    parser.add_argument("folder", type=Path, help="folder of images; tars and Parquet in it are read too")
    parser.add_argument("table", type=Path, help="the file to write, .parquet or .csv")
    arguments = parser.parse_args()
    if arguments.table.suffix not in TABLE_SUFFIXES:
        parser.error(f"{arguments.table} must end in .parquet or .csv")
    if not arguments.table.parent.is_dir():
        parser.error(f"there is no folder {arguments.table.parent}: make it, or name another for the table")
    try:
        images = list(hash_images(arguments.folder))
    except PseudorisError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    names = ("key", "sha256", "phash")
    columns = {name: pa.array([each[at] for each in images], pa.string()) for at, name in enumerate(names)}
    write = pc.write_csv if arguments.table.suffix == ".csv" else pq.write_table
    write(pa.table(columns), str(arguments.table))
    sys.stdout.write(f"{len(images):,} images: {arguments.table}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
