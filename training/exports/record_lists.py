"""What the formats share that are a folder of images and one list of records, a record an expression or an image.

A format says which records an image gives, with what each keeps, and what a record that was read keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pseudoris.training.exports.export_job import ExportJob, ExportReport
from pseudoris.training.exports.output_files import ManyFiles, json_lines, json_list, new_file, read_records
from pseudoris.training.exports.read_back import Content, broken
from pseudoris.training.exports.record import ExportImage

IMAGES_FOLDER = "images"


def write_records(
    job: ExportJob,
    path: str,
    records_of: Callable[[ExportImage], Iterable[tuple[dict[str, Any], Content]]],
    read: Callable[[Any], Content],
    *,
    notes: Sequence[str],
    others: dict[str, bytes] | None = None,
) -> ExportReport:
    """Write images and records as they come, and read the records back.

    Args:
        job: The export.
        path: Of the list; a record a line if it ends in `.jsonl`.
        records_of: Gives the records of an image, plain values, each with what it keeps.
        read: Gives what a record keeps that was read; what it raises says that the record is not as it was written.
        notes: For the user.
        others: Further small files, by path.
    """
    destination = job.destination
    job.claim(*{file.rpartition("/")[0] for file in (path, *(others or ()))} - {""}, IMAGES_FOLDER)
    written = json_lines if path.endswith(".jsonl") else json_list
    with ManyFiles(destination) as files, new_file(destination, path) as local, written(local) as records:
        for image in job.images():
            files.write(IMAGES_FOLDER, image.name, image.data)
            for record, kept in records_of(image):
                records.append(record)
                job.add(kept)
    files.check()
    for file, data in (others or {}).items():
        destination.replace(file, data)

    def contents() -> Iterable[Content]:
        for number, record in enumerate(read_records(destination, path), 1):
            try:
                yield read(record)
            except (LookupError, TypeError, ValueError) as error:
                raise broken(f"{destination.uri(path)}, record {number}", str(error)) from error

    job.check(contents(), destination.uri(path))
    return job.report(
        {"images": job.num_images, "records": records.num_elements, "expressions": job.written.num_texts},
        {"images": files.num_files, "records": 1},
        files.size_bytes + job.sizes(path, *(others or ())),
        notes=(*notes, *job.encoded_anew_notes()),
        checked=("every record reads back with its image, its targets and its expressions; every image file exists",),
    )
