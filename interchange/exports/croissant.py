"""Describes an export in `croissant.json`, for searches of data sets. Called by `export_job`, `huggingface`.

Croissant 1.1 with its vocabulary on responsible AI. Each claim names its evidence: the run's header, its settings, or
counts. The publisher fills in the rest. It never says where the images were: a path or a bucket's name is private.
Source: mlcommons/croissant 401f6ff, docs/croissant-spec-1.1.md and croissant_rai.ttl; mlcroissant 1.1.1 reads the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from pseudoris.interchange.exports.export_options import ExportReport, ExportRequest
from pseudoris.primitives.untrusted import printable_json
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.tables.kept_clauses import kept_clauses

CROISSANT_NAME: Final = "croissant.json"
# Maps each record set to the pattern of its Parquet files, and to their schema.
Tables = Mapping[str, tuple[str, pa.Schema]]

_TERMS: Final = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform"
)
# This is the official context of version 1.1, with the vocabulary `rai`.
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{name: {"@id": f"cr:{name}", "@type": "@json"} for name in ("data", "examples")},
    **{name: {"@container": "@language"} for name in ("description", "name")},
    **{term: f"cr:{term}" for term in _TERMS.split()},
}
_MEDIA_TYPES: Final = {
    **{".csv": "text/csv", ".md": "text/markdown", ".py": "text/x-python", ".jpg": "image/jpeg", ".png": "image/png"},
    **{".json": "application/json", ".jsonl": "application/jsonlines"},
    **{".parquet": "application/x-parquet", ".tar": "application/x-tar"},
}
_IS_OF: Final = {"Boolean": pa.types.is_boolean, "Integer": pa.types.is_integer, "Float": pa.types.is_floating}
# Our own engines read `weights.uri`, so its scheme may say what kind of weights they have.
_OWN_ENGINES: Final = frozenset({"sam", "coca", "clip"})
_KNOWN_WEIGHTS: Final = {
    "builtin": "The weights shipped with pseudoris learnt from synthetic drawings and simulated captions alone: on "
    "photographs their output is meaningless (workers/checkpoints/tiny/MODEL_CARD.md)",
    "random": "Weights are random: their output is meaningless (settings of the run)",
}
_TO_FILL: Final = "to be filled in by the publisher"


def description(
    request: ExportRequest,
    report: ExportReport,
    *,
    title: str,
    name: str,
    files: Mapping[str, str | None],
    tables: Tables,
) -> bytes:
    """Return the content of `croissant.json`.

    `title` is that of the data set, `name` that of the format. `files` are sha256 by path, None for a pattern of many
    files; rows of the files in `tables` can be read.
    """
    tree = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": title,
        "description": f"Images with masks, and expressions that refer to them, written by pseudoris ({name}).",
        "license": request.options.license or "unknown",
        "dateCreated": request.run.header.created_utc,
        **{f"rai:{key}": value for key, value in _claims(request, report.rows, report.dropped) if value},
        "distribution": [
            _file("FileObject", path, contentUrl=path, sha256=sha) if sha else _file("FileSet", path, includes=path)
            for path, sha in files.items()
        ],
        "recordSet": [
            *([_splits(request.splits)] if request.has_splits else []),
            *(
                {
                    "@type": "cr:RecordSet",
                    "@id": table,
                    "field": [_field(f"{table}/{each.name}", each, path, each.name) for each in schema],
                }
                for table, (path, schema) in tables.items()
            ),
        ],
    }
    return printable_json(tree, indent=2).encode() + b"\n"


def _splits(names: Sequence[str]) -> dict[str, Any]:
    """Return the record set of the splits that are written: their names are in files, folders, fields or columns."""
    key = "splits/name"
    field = {"@type": "cr:Field", "@id": key, "dataType": "sc:Text"}
    own = {"@type": "cr:RecordSet", "@id": "splits", "dataType": "cr:Split", "key": {"@id": key}}
    return {**own, "field": [field], "data": [{key: name} for name in names]}


def _file(kind: str, path: str, **further: str) -> dict[str, str]:
    media_type = _MEDIA_TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")
    return {"@type": f"cr:{kind}", "@id": path, "encodingFormat": media_type, **further}


def _field(name: str, column: pa.Field, path: str, source: str, *steps: str) -> dict[str, Any]:
    """Return the field of a column of the files at `path`; `steps` lead into the structs of the column `source`."""
    kind, num_axes = column.type, 0
    while pa.types.is_list(kind):
        kind, num_axes = kind.value_type, num_axes + 1
    field: dict[str, Any] = {"@type": "cr:Field", "@id": name}
    if doc := (column.metadata or {}).get(b"doc"):
        field["description"] = doc.decode()
    if num_axes:
        field |= {"isArray": True, "arrayShape": ",".join(["-1"] * num_axes)}
    each, is_image = "[*]." if num_axes else "", pa.types.is_struct(kind) and kind.names == ["bytes", "path"]
    if pa.types.is_struct(kind) and not is_image:
        inner = [_field(f"{name}/{one.name}", one, path, source, *steps, each + one.name) for one in kind]
        return field | {"subField": inner}
    if is_image:
        steps = (*steps, f"{each}bytes")
        # A field that is not marked as repeated would give only one of several images.
        field |= {"repeated": True} if "*" in "".join(steps) else {}
    transform = {"transform": [{"jsonPath": step} for step in steps]} if steps else {}
    found = {"fileSet": {"@id": path}, "extract": {"column": source}, **transform}
    # A column of bytes gets the type Text, because its images may have a format that no reader of Croissant decodes.
    value = "ImageObject" if is_image else next((name for name, is_of in _IS_OF.items() if is_of(kind)), "Text")
    return field | {"dataType": f"sc:{value}", "source": found}


def _claims(request: ExportRequest, rows: Mapping[str, int], dropped: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """Yield each key on responsible AI with its text or texts; an import's keys on models are empty."""
    header = request.run.header
    # A tool is a stage's engine and digest, and what is known of its weights. Their path is private, so it is left out.
    tools = [
        (f"{stage}: {engine}, {digest} (its digest in the identity of the run)", _KNOWN_WEIGHTS.get(scheme, ""))
        for stage, engine, digest, scheme in used_models(header)
    ]
    num_quarantined = sum(receipt.counts.quarantined for receipt in request.run.receipts)
    left_out = {**dropped, "images that could not be annotated": num_quarantined}
    counts = [", ".join(f"{number:,} {name}" for name, number in each.items() if number) for each in (rows, left_out)]
    use = "Training of models for referring image segmentation and grounding"
    yield "dataCollection", f"How the images were collected: {_TO_FILL}"
    yield "dataCollectionMissingData", counts[1] and f"Left out, counted while it was written: {counts[1]}"
    yield "dataAnnotationProtocol", list(_protocol(request))
    yield "machineAnnotationTools", list(dict.fromkeys(text for text, _ in tools))
    yield "annotationsPerItem", f"Counted while it was written: {counts[0]}"
    yield "dataUseCases", use if header.is_human else f"{use}. Not for tests with texts of models"
    yield "dataBiases", tools and "Expressions repeat what the models learnt, also mistakes and prejudice. Not measured"
    limits = dict.fromkeys([header.domain and header.warning, *(known for _, known in tools)])
    yield "dataLimitations", list(filter(None, limits))
    yield "personalSensitiveInformation", f"Not looked for; names of files come from those of the images: {_TO_FILL}"


def used_models(header: RunHeader) -> Iterator[tuple[str, str, str, str]]:
    """Yield each stage that used a model, its engine and digest, and the scheme of our engines' weights, else ""."""
    for run in header.runs:
        stages: dict[str, Any] = {"propose": run.config.masks, "caption": run.config.captions}
        stages |= {"filter": run.config.filtering, "check": run.config.grounding_check}
        for stage, digest in run.identity.weights.items():
            settings: Any = stages.get(stage)
            engine = stage if settings is None else settings.engine
            yield stage, engine, digest, settings.weights.uri.partition(":")[0] if engine in _OWN_ENGINES else ""


def _protocol(request: ExportRequest) -> Iterator[str]:
    header, human = request.run.header, request.options.human
    if header.is_human:
        yield f"An imported annotation (origin of the run). Who made it, and how: {_TO_FILL}"
    else:
        corrected = "a person corrected some" if header.is_corrected else "no person corrected them"
        some = " of some images; people made the others" if any(run.is_human for run in header.runs) else ""
        yield f"Synthetic: tools made masks and texts{some}, and {corrected} (origin: {header.origin})"
    if not header.is_human:
        yield from (f"{clause.words} (settings of the run)" for clause in kept_clauses(header))
    if kinds := dict.fromkeys(
        kind for each in header.runs if each.config.composing for kind in each.config.composing.kinds
    ):
        yield f"A program composed expressions out of words of the captions: {', '.join(kinds)} (settings of the run)"
    if rewording := request.options.rewording:
        yield f"A program says each in up to {rewording} other ways too, and without openings (--rewording)"
    if human is not None:
        yield f"Of a REFER data set by people: the splits {', '.join(human.splits)} (--merge-human)"
