"""`python -m pseudoris.interchange.exclusions FOLDER TABLE`: writes the table of hashes that `--exclude` reads.

For whoever owns a benchmark and gives away its hashes, not its images. Called by `training/exclusions.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pseudoris.interchange.exclusions.exclude_option import TABLE_SUFFIXES, hash_images
from pseudoris.primitives.errors import PseudorisError


def main() -> int:
    """Write the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pseudoris.interchange.exclusions", description=__doc__)
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
    write = pyarrow.csv.write_csv if arguments.table.suffix == ".csv" else pyarrow.parquet.write_table
    write(pa.table(columns), str(arguments.table))
    sys.stdout.write(f"{len(images):,} images: {arguments.table}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
