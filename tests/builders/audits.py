"""Drawn audits of a small run, with pictures that a browser shows; and files of verdicts as the page writes them."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pseudoris.audit.audit_folder import Answer, AuditFolder, HeaderLine, Known, VerdictLine
from pseudoris.audit.draw import DrawOptions, draw_audit
from pseudoris.files.location import RunLocation
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.sources import GivenImages
from tests.viewer.builders import annotated, picture, write_run

_TEXTS = ("the red circle", "<img src=x onerror=alert(1)> left", "the small dotted square", "a circle")


def small_audit(folder: Path, *, absences=(), **options) -> AuditFolder:
    """Draw an audit of a small run: 24 pairs, and 3 images to search; each image has the given `absences`."""

    def make(entry):
        # The last text of each mask is not kept.
        texts = [(mask, f"{text} {mask}", 1.6 - at / 10, 1 - mask) for mask in (0, 1) for at, text in enumerate(_TEXTS)]
        image = annotated(entry, 2, texts)
        nothing = {"kind": "none", "confidence": 0.9, "kept": True, "source": "composer"}
        said = tuple(ExpressionRecord((), text, (), **nothing) for text in absences)
        return replace(image, expressions=(*image.expressions, *said))

    location = write_run(folder / "run", *((f"{number}.png", make) for number in range(8)))
    options = {"num_pairs": 24, "num_images": 3, "seed": 1, **options}
    return drawn_audit(location, folder / "audit", lambda shard, key: picture(), **options)


def drawn_audit(location: RunLocation, folder: Path, read=lambda shard, key: key.encode(), **options) -> AuditFolder:
    """Draw an audit of a run, by `DrawOptions`; `read` gives the bytes of an image."""
    draw_audit(OpenRun.at(location), folder, DrawOptions(**options), planned=GivenImages(read))
    return AuditFolder.open(folder)


def judge(
    audit: AuditFolder, rule=lambda row: "right", *, rater: str = "ana", folder: Path | None = None
) -> AuditFolder:
    """Give the verdict on each pair that `rule` says of its row, if any; `folder` takes the place of the audit's."""
    said = {row["pair_id"]: rule(row) for row in audit.pairs.to_pylist()}
    lines = (VerdictLine(pair=pair, verdict=verdict) for pair, verdict in said.items() if verdict)
    add_answers(folder or audit.path, audit.known, lines, rater=rater)
    return audit


def add_answers(audit: Path, known: Known, answers: Iterable[Answer], *, rater: str = "ana") -> Path:
    """Write answers to a rater's file line by line; begins it with a header, or continues it."""
    path = audit / "verdicts" / f"{rater}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    # A line ends with its digest, a quote, a brace and a line feed.
    digest = text[-19:-3]
    for line in (*([] if text else [HeaderLine(draw=known.draw, rater=rater)]), *answers):
        body = line.model_dump_json()[:-1]
        digest = hashlib.sha256((digest + body).encode()).hexdigest()[:16]
        text += f'{body},"digest":"{digest}"}}\n'
    path.write_text(text)
    return path
