"""Arguments and options that several commands share, each with its help in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Images to read: a folder, file, fsspec url or prefix (s3://…), or Parquet. Quote a glob or tars "
        "('{000..123}.tar').",
        show_default=False,
    ),
]
Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="Folder or url of the run. For S3 that is not AWS set AWS_ENDPOINT_URL (annotate: source.endpoint_url).",
        show_default=False,
    ),
]
Preset = Annotated[
    str, typer.Option("--preset", help="Named configuration: tiny (embedded models, CPU), base, or paper.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file that overrides the preset.", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Set one key, e.g. masks.points_per_side=16. Overrides --config. Can be repeated.",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster: auto, local, or HOST:PORT.", show_default=False),
]
