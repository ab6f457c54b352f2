"""The formats that `pseudoris export` knows; another one is a module beside this and a line in here."""

from __future__ import annotations

from typing import Final

from schemas.errors import ConfigError
from training.exports.coco import CocoExport
from training.exports.cris import CrisExport
from training.exports.huggingface import HuggingfaceExport
from training.exports.lmdb_records import LmdbExport
from training.exports.parquet import ParquetExport
from training.exports.protocol import Export
from training.exports.pseudo_ris_csv import PseudoRisCsvExport
from training.exports.refer import ReferExport
from training.exports.sa1b import Sa1bExport
from training.exports.webdataset import WebdatasetExport

EXPORTS: Final[dict[str, Export]] = {
    "parquet": ParquetExport(),
    "refer": ReferExport(),
    "cris": CrisExport(),
    "lmdb": LmdbExport(),
    "coco": CocoExport(),
    "sa1b": Sa1bExport(),
    "webdataset": WebdatasetExport(),
    "hf": HuggingfaceExport(),
    "pseudo-ris-csv": PseudoRisCsvExport(),
}


def find_export(name: str) -> Export:
    """Return the export of a format.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in EXPORTS:
        raise ConfigError(f"there is no export format {name!r}: give --format {' or '.join(EXPORTS)}")
    return EXPORTS[name]
