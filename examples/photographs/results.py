"""The figures of a proof as one JSON, and as one page that shows everything without another file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow.compute as pc

from examples.step_log import StepRecord, read_record
from pseudoris.audit.audit_folder import CANNOT_SAY, RIGHT, AuditFolder, RaterAnswers
from pseudoris.audit.figures import audit_figures, report_chart
from pseudoris.cli.audit_report import notes, print_report
from pseudoris.cli.formats import format_bytes, format_seconds
from pseudoris.files.location import RunLocation
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.viewer.gallery_page import THUMBNAIL
from pseudoris.viewer.gallery_sample import read_summary
from pseudoris.viewer.outlines import frame_size, outline_of
from pseudoris.viewer.pages import iter_page, run_pictures

# A rater whose name begins so is no person.
SIMULATED: Final = "simulated"
_NUM_EXAMPLES: Final = 12
_WITH_WEIGHTS: Final = ("masks", "captions", "filtering")


def write_results(out: Path, steps: Sequence[StepRecord]) -> Path:
    """Write `photographs.json` and `photographs.html`, print the audit's figures; return the page's path.

    Raises:
        ConfigError: The run or the audit cannot be used, or a file of verdicts is refused.
    """
    location, audit = RunLocation.open(str(out / "annotation")), AuditFolder.open(out / "audit")
    run, status, answers = OpenRun.at(location), run_status(location), audit.answers()
    header = run.header
    figures = audit_figures(audit, answers)
    if answers:
        print_report(audit, figures)
    found = {
        "pseudoris": version("pseudoris"),
        "given": read_record(out, "given"),
        "device": header.identity.device_kind,
        "versions": dict(header.identity.versions),
        "weights": dict(header.identity.weights),
        "weight_files": {name: getattr(header.config, name).weights.uri for name in _WITH_WEIGHTS},
        "sample": read_record(out, "sample"),
        "quarantined": dict(status.reasons),
        "images_per_s": status.rates.overall,
        "stage_seconds_an_image": {name: spent / status.images for name, spent in status.seconds.items()},
        "host_peak_bytes": next(step.peak_bytes for step in steps if step.name == "annotate"),
        "machine": read_record(out, "machine"),
        "gpu_benchmark": read_record(out, "benchmark"),
        "accuracy": {**figures.as_json()["accuracy"]["value"], "verdicts": figures.accuracy.num},
        "judges": {name: SIMULATED if name.startswith(SIMULATED) else "human" for name in figures.raters},
        "audit": figures.as_json(),
        "steps": [asdict(step) for step in steps],
    }
    (out / "photographs.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    content = {
        "summary": replace(read_summary(run), source=found["given"]["source"]),
        "found": found,
        "tables": _tables(found),
        "chart": _data_url("image/svg+xml", report_chart(figures).encode()),
        "notes": list(notes(audit, figures)),
        "examples": list(_examples(audit, answers, header.config.images)),
        "bytes": format_bytes,
        **dict.fromkeys(("page_name", "index_name", "quality_name"), ""),
    }
    styles = ("base", "gallery", "quality", "photographs")
    page = iter_page(
        "photographs.html.j2", content, styles=styles, scripts=(), room=__package__ or "", pictures="data:"
    )
    path = out / "photographs.html"
    path.write_text("".join(page), encoding="utf-8")
    return path


def _tables(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    machine, sample, speed = found["machine"], found["sample"], found["images_per_s"]
    gpu = machine["gpu_peak_bytes"]
    return {
        "Speed": {
            "images per second, without the start": "–" if speed is None else f"{speed:.3g}",
            **{f"seconds per image: {name}": f"{each:.3f}" for name, each in found["stage_seconds_an_image"].items()},
            **{f"step: {step['name']}": format_seconds(step["seconds"]) for step in found["steps"]},
        },
        "Memory": {
            "host, all processes, at the peak": format_bytes(found["host_peak_bytes"]),
            "GPU, fullest card, at the peak": "no GPU was seen" if gpu is None else format_bytes(gpu),
            "of the machine": f"{format_bytes(machine['memory_bytes'])}, {machine['cores']} cores",
            "device": found["device"],
        },
        "Sample": {
            "images in SOURCE": f"{sample['listed']:,}",
            "drawn": f"{sample['drawn']:,}",
            **{f"not readable: {_shown(key)}": reason for key, reason in sample["unread"].items()},
            **{f"quarantined: {reason}": f"{number:,}" for reason, number in found["quarantined"].items()},
        },
        "Versions": {
            "pseudoris": found["pseudoris"],
            **found["versions"],
            **{f"weights: {stage}": uri for stage, uri in found["weight_files"].items()},
            **{f"sha256: {stage}": f"{each[:16]}…" for stage, each in found["weights"].items()},
        },
    }


def _examples(audit: AuditFolder, answers: Sequence[RaterAnswers], settings: ImagesConfig) -> Iterator[dict[str, Any]]:
    """Yield judged pairs that the run keeps, wrong ones first, in the random order of the draw."""
    rows = audit.pairs.filter(pc.field("is_kept")).sort_by("position").to_pylist()
    judged = [
        (
            row,
            {each.rater: each.verdicts[row["pair_id"]].verdict for each in answers if row["pair_id"] in each.verdicts},
        )
        for row in rows
    ]
    wrong = [pair for pair in judged if set(pair[1].values()) - {RIGHT, CANNOT_SAY}]
    right = [pair for pair in judged if set(pair[1].values()) == {RIGHT}]
    num_right = min(len(right), _NUM_EXAMPLES - min(len(wrong), _NUM_EXAMPLES // 2))
    columns = ["image_id", "key", "height", "width"]
    images = {row["image_id"]: row for row in audit.images.select(columns).to_pylist()}
    pictures, masks, keys = audit.pictures(), audit.masks(), read_record(audit.path.parent, "keys")
    with run_pictures(THUMBNAIL) as small_of:
        for row, verdicts in (*wrong[: _NUM_EXAMPLES - num_right], *right[:num_right]):
            image, data = images[row["image_id"]], pictures[row["image_id"]]
            small = small_of(data, settings) if data else None
            yield {
                "name": _shown(keys.get(image["key"].partition(".")[0], image["key"])),
                "text": row["text"],
                "verdicts": verdicts,
                "is_wrong": set(verdicts.values()) != {RIGHT},
                "picture": None if small is None else _data_url("image/webp", small),
                "size": frame_size(image["height"], image["width"]),
                "outlines": [_outline(masks[row["image_id"]][mask]) for mask in row["mask_ids"]],
            }


def _shown(key: str) -> str:
    # Bytes of a name that are not UTF-8 tell images apart.
    return unquote(key, errors="backslashreplace")


def _outline(mask: Mapping[str, Any]) -> str:
    try:
        return outline_of(mask["counts"], (mask["height"], mask["width"])).path
    except ValueError:
        # `verify` reports masks whose encoding is damaged.
        return ""


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
