"""Arguments and options that several commands share, each with its help in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, file, fsspec url or prefix (s3://…), Parquet, or, in quotes, a glob or tars ('{000..123}.tar').",
        show_default=False,
    ),
]
Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="Folder or url that holds the run. Another S3 than AWS: AWS_ENDPOINT_URL (annotate: source.endpoint_url).",
        show_default=False,
    ),
]
Preset = Annotated[str, typer.Option("--preset", help="tiny (embedded, CPU), base, or paper.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file laid over the preset.", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value laid over everything, e.g. masks.points_per_side=16.", show_default=False),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster: auto, local, or HOST:PORT.", show_default=False),
]
