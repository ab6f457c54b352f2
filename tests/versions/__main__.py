"""Records the runs that every later version must read: one finished, and one whose driver was killed half-way.

    python -m tests.versions FOLDER [--force]

Run it once at each release. FOLDER, named by the version, takes `images`, `config.yaml` with every setting written out,
and the runs `finished` and `half`. Their source is a bucket of a server that the tests start, so that no path and no
time of a file is in the header. The runs need the weights that the package ships: if a later version replaces these,
keep the present ones beside the images. `0.5.0/half-tiny` is of no later version: 0.5.0 took `tiny` where no preset was
named.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import yaml
from PIL import Image

from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.demo import write_demo
from tests.builders.s3 import ENVIRONMENT, S3Server, serving_s3
from tests.golden.scenarios import kill_at_first_receipt, run

ROOT: Final = Path(__file__).parent
PRESET: Final = "tiny-composed"
NUM_SCENES: Final = 6
BUCKET: Final = "versions"
SOURCE: Final = f"s3://{BUCKET}/images"


def put_images(folder: Path, server: S3Server) -> None:
    """Put the images of a folder into `SOURCE`; the etag of an object is the digest of its bytes."""
    server.client().create_bucket(Bucket=BUCKET)
    server.put_folder(folder, BUCKET, "images")


def annotation(out: str, *words: str) -> tuple[str, ...]:
    return ("annotate", SOURCE, out, "--config", "config.yaml", *words)


def record(folder: Path) -> None:
    _write_images(folder / "images")
    settings = load_config(PRESET, None, ["shards.max_images=2"]).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, width=120), encoding="utf-8")
    with serving_s3() as server:
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint_url})
        put_images(folder / "images", server)
        run(annotation("finished", "--address", "local"), folder)
        kill_at_first_receipt(annotation("half", "--address", "local"), folder, folder / "half")
    for each in ("finished", "half"):
        # They name this machine, and a later driver would watch a dead one's claim for a minute.
        shutil.rmtree(folder / each / "_lock")


def _write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as drawn:
        images = write_demo(Path(drawn), num_scenes=NUM_SCENES, seed=5)
        for path in sorted(images.glob("scene-*.png")):
            data = io.BytesIO()
            Image.open(path).save(data, "JPEG", quality=90)
            (folder / f"{path.stem}.jpg").write_bytes(data.getvalue())
    (folder / "not-an-image.jpg").write_text("This file says that it is a JPEG.\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--force", action="store_true", help="replace what is there")
    asked = parser.parse_args()
    if asked.force:
        shutil.rmtree(asked.folder, ignore_errors=True)
    record(asked.folder.resolve())


if __name__ == "__main__":
    main()
