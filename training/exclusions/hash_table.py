"""A table of hashes: Parquet or CSV with a column `sha256` of encoded bytes, a column `phash`, or both."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pc

from pseudoris.images.parquet_pages import read_columns
from pseudoris.images.perceptual_hash import HASH_HEX_DIGITS, require_imagehash
from pseudoris.images.prover import Prover
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.untrusted import read_regular
from pseudoris.store.exclusions.exclusion_rules import Exclusions, exclusion
from pseudoris.store.files.storage import storage_errors
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.source import open_source

logger = logging.getLogger(__name__)

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
            # Without a wanted column the schema alone, for the message.
            table = read_columns(data, COLUMNS, where=where)
        else:
            # As text: a hash of digits alone is not a number.
            options = pc.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
            table = pc.read_csv(pa.BufferReader(data), pc.ReadOptions(use_threads=False), convert_options=options)
        # Arrow decodes names, and raises, only as they are asked for.
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
    require_imagehash()
    config = load_config("tiny")
    source = open_source(str(folder), config.source)
    entries = assign_shards(source.list(), config.shards)
    with Prover(config.images, has_hash=True) as prover:
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
