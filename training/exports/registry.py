"""The formats of `pseudoris export`. A new format is a module beside this one, and a line here."""

from __future__ import annotations

from typing import Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.exports.coco import CocoExport
from pseudoris.training.exports.cris import CrisExport
from pseudoris.training.exports.cris_lmdb import LmdbExport
from pseudoris.training.exports.huggingface import HuggingfaceExport
from pseudoris.training.exports.merged_parquet import ParquetExport
from pseudoris.training.exports.protocol import Export
from pseudoris.training.exports.pseudo_ris_csv import PseudoRisCsvExport
from pseudoris.training.exports.refer import ReferExport
from pseudoris.training.exports.sa1b import Sa1bExport
from pseudoris.training.exports.webdataset import WebdatasetExport

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
        raise ConfigError(f"There is no export format {name!r}. Give --format {' or '.join(EXPORTS)}.")
    return EXPORTS[name]
