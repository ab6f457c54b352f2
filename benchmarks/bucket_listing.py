"""Measures how long listing a source takes, and its memory: tars on a disk, and a bucket of a million keys.

    python -m benchmarks.bucket_listing [--tars 1000] [--members 100] [--keys 1000000] [--json FILE]

The bucket is `benchmarks.fake_bucket`: it answers as fast as it can write XML, so that what is measured is the lister.
On S3 a page of 1,000 keys takes some 50 to 100 ms, and what counts is how many are asked for at once.
`[--list URI …]` is what its own processes are started with.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from benchmarks.fake_bucket import BUCKET, num_requests, served
from benchmarks.measurement import options, write_json
from benchmarks.process_watch import run_watched, usage
from benchmarks.scale import write_tars
from pseudoris.schemas.config import SourceConfig
from pseudoris.store.sources import open_source

# Any will do: nothing checks them, but a client without credentials looks for them on the network.
_CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def list_all(source: str, endpoint_url: str | None) -> dict[str, float]:
    """List SOURCE to its end; return how many images it names, the clock at both ends, and the memory before."""
    opened = open_source(source, SourceConfig(endpoint_url=endpoint_url))
    before, started = usage(psutil.Process()).rss_bytes, time.monotonic()
    num_images = sum(1 for _ in opened.list())
    return {"images": num_images, "start_s": started, "end_s": time.monotonic(), "before_bytes": before}


def measure(case: str, source: str, endpoint_url: str | None = None) -> dict[str, object]:
    """Return the JSON row of one SOURCE, listed by a process of its own."""
    arguments = ["--list", source, *([endpoint_url] if endpoint_url else [])]
    watched = run_watched("benchmarks.bucket_listing", arguments, _CREDENTIALS)
    list_s = watched.answer["end_s"] - watched.answer["start_s"]
    during = watched.between(watched.answer["start_s"], watched.answer["end_s"])
    return {
        "case": case,
        "images": watched.answer["images"],
        "list_s": list_s,
        "images_per_s": watched.answer["images"] / list_s,
        "growth_bytes": max(sample.driver.rss_bytes for sample in during) - watched.answer["before_bytes"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print it, write the JSON."""
    given = options(__doc__, arguments)
    if given.list:
        sys.stdout.write(json.dumps(list_all(given.list[0], given.list[1] if given.list[1:] else None)) + "\n")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tars = write_tars(Path(folder) / "tars", tars=given.tars, members=given.members)
        rows.append(measure(f"{given.tars:,} tars of {given.members} images", str(tars)))
    with served(given.keys) as endpoint:
        row = measure(f"a bucket of {given.keys:,} keys", f"s3://{BUCKET}/data", endpoint)
        rows.append({**row, "list_requests": num_requests(endpoint)})
    write_json(rows, given.json)
    for row in rows:
        sys.stdout.write(", ".join(f"{name} {value}" for name, value in row.items()) + "\n")


if __name__ == "__main__":
    main()
