"""Arguments and options that several commands share, and checks of the places that they name. Called by most commands.

A help text here appears on each command that uses it. A check refuses by `ConfigError` before any work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pseudoris.files.location import RunLocation
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE
from pseudoris.images.pixels import import_plugins
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import writable
from pseudoris.schemas.config import ON_CPUS
from pseudoris.schemas.run_records import HEADER_NAME, MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.exclusion_rules import Exclusions

# An error gives this remedy if the shell has expanded a pattern, so that the matches took other arguments' places.
QUOTE: Final = "If the shell opened a pattern, quote it: 'folder/*.jpg'"
_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp")


def option(*words: str, **rules: Any) -> Any:
    """Return an option of a command: its names, by default its parameter's, then its help, and Typer's rules."""
    *names, text = words
    return typer.Option(*names, help=text, **{"callback": _in_64_bits, **rules})


def _in_64_bits(value: Any) -> Any:
    """Refuse nan, infinity and numbers above 63 bits: an option that has only a lower bound would take them."""
    high, kind = (float("inf"), "finite number") if isinstance(value, float) else (2**63, "number of at most 63 bits")
    if isinstance(value, int | float) and not abs(value) < high:
        raise typer.BadParameter(f"{value!s:.40} is not possible: give a {kind}.")
    return value


def argument(metavar: str, text: str, **rules: Any) -> Any:
    """Return an argument of a command: its name and its help."""
    return typer.Argument(metavar=metavar, help=text, **rules)


Source = Annotated[
    str,
    argument(
        "SOURCE",
        "Images to read: a folder, file, url (s3://…), glob, tars or Parquet. Quote a glob or braces: "
        "'part-{000..123}.tar'.",
    ),
]
Out = Annotated[str, argument("OUT", "Folder or url of the run. For S3 outside AWS, set AWS_ENDPOINT_URL.")]
ConfiguredOut = Annotated[
    str,
    argument(
        "OUT",
        "Folder or url of the run. For S3 outside AWS, set AWS_ENDPOINT_URL or --set source.endpoint_url=….",
        callback=writable,
    ),
]
Audit = Annotated[str, argument("AUDIT", "Local folder of the audit.")]
Preset = Annotated[
    str | None,
    option(
        "--preset",
        "Settings by name: tiny, tiny-composed (drawn scenes alone), base, base-composed, paper, open, open-composed.",
    ),
]
ConfigFile = Annotated[Path | None, option("--config", "YAML file that overrides the preset.")]


def set_one(example: str) -> Any:
    """Return the option `--set` of a command with settings, with an example of its own."""
    return typer.Option("--set", help=f"Set one key, e.g. {example}. Overrides --config. Can be repeated.")


Assignments = Annotated[list[str] | None, set_one("masks.points_per_side=16")]
OnCpus = Annotated[bool, option("--on-cpus", "Compute on CPUs, slowly, whatever the preset says.")]
AsJson = Annotated[bool, option("--json", "Print one JSON object.")]
MovedSource = Annotated[
    list[str] | None,
    option(
        "--source",
        "Where the run's images are now, if they have moved; of a combined run NAME=PATH, once for each name.",
        metavar="PATH",
    ),
]
ShardSize = Annotated[int | None, option("Images per shard (same as --set shards.max_images=…).")]
EmbedImages = Annotated[
    bool, option("--embed-images", "Store the images in the tables (same as shards.embed_images=true).")
]
Plugins = Annotated[
    list[str] | None,
    option(
        "--plugin",
        "Decoder plug-in to import for formats such as HEIC. A run's own plug-ins are never imported. Can be repeated.",
        metavar="MODULE",
    ),
]
Address = Annotated[
    str | None,
    option(
        "--address",
        "Ray cluster: auto, local (start one), or HOST:PORT. By default placement.address, which is auto: the "
        "cluster of RAY_ADDRESS or of this machine, else a new one.",
    ),
]
# Scripts for version 0.5 may give this option, so it is accepted and ignored.
AcceptDomain = Annotated[bool, option("--accept-domain", "No longer needed.", hidden=True)]

Exclude = Annotated[
    list[str] | None,
    option(
        "--exclude",
        "Leave out a benchmark's images: a REFER folder, a folder of images, a list of names or COCO ids, a table "
        "of sha256 or phash. Can be repeated.",
        metavar="PATH",
    ),
]
Only = Annotated[
    list[str] | None,
    option(
        "--only",
        "Take no other images: a list of names or COCO ids, or the split train of a REFER folder. Repeatable.",
        metavar="PATH",
    ),
]
ExcludeDistance = Annotated[
    int | None,
    option(
        "--exclude-distance",
        "Bits by which perceptual hashes of copies differ.",
        show_default=str(DEFAULT_MAX_DISTANCE),
    ),
]
ShardsAtOnce = Annotated[int, option("--threads", "Number of shards at once; each is held in memory.", min=1, max=64)]
Repair = Annotated[
    bool, option("--repair", "Read every file of the run, and write missing or damaged ones again, the same bytes.")
]


def refuse_second_match(source: str, out: str) -> None:
    """Refuse an OUT that is the second match of a pattern for SOURCE, which the shell has expanded."""
    first, second = Path(source).absolute(), Path(out).absolute()
    is_beside = first.parent == second.parent and first.exists() and second.is_dir() and first != second
    holds_images = is_beside and any(each.suffix.lower() in _PICTURES for each in second.iterdir())
    if second.is_file() or (holds_images and not (second / HEADER_NAME).exists()):
        kind = "a folder of images" if holds_images else "a file"
        raise ConfigError(f"OUT {out!r} is {kind}, not of a run. {QUOTE}.")


def words(assignments: list[str] | None, short: Mapping[str, object], *, on_cpus: bool = False) -> list[str]:
    """Return the words of `--set`, then those of the short options, which win. Those of `on_cpus` come first.

    `short` has the value of each option by its key; None or False if the option was not given.
    """
    given = {key: value for key, value in short.items() if value is not None and value is not False}
    of_cpus = ON_CPUS if on_cpus else ()
    return [
        *of_cpus,
        *(assignments or ()),
        *(f"{key}={'true' if value is True else value}" for key, value in given.items()),
    ]


def check_apart(run: RunLocation, destination: RunLocation, *, option: str) -> None:
    """Refuse the run's folder itself, and places in its tables and records. Another folder in the run is allowed."""
    own = (*SCHEMAS, PLAN_FOLDER, RECEIPTS_FOLDER, MANIFEST_FOLDER)
    if (destination.holds(run) and run.holds(destination)) or any(run.holds(destination, folder) for folder in own):
        raise ConfigError(f"{option} {destination.root!r} is inside the run. Choose a folder outside it.")


def read_exclude(exclude: list[str] | None, max_distance: int | None, only: list[str] | None = None) -> Exclusions:
    """Return what `--exclude`, `--exclude-distance` and `--only` name."""
    if not exclude and not only and max_distance is None:
        return ()
    # The import is here, because it loads the readers of annotation, which `--help` does not need.
    from pseudoris.interchange.exclusions import read_exclusions

    return read_exclusions(exclude or (), max_distance, only or ())


def load_plugins(plugins: Iterable[str] | None) -> None:
    """Import the decoder plug-ins that `--plugin` names."""
    import_plugins(tuple(plugins or ()))


def check_file(path: Path) -> None:
    """Refuse a local file that cannot be created, before the work whose result is written to it."""
    if not path.parent.is_dir():
        raise ConfigError(f"The folder {path.parent} for {path.name} does not exist. Create it first.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Give a file name in it.")


def write_text(path: Path, text: str, *, option: str) -> None:
    """Write a file that an option names."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{option} {path} cannot be written ({why}): name another file") from error


def local_folder(audit: str) -> Path:
    """Return the folder that AUDIT names."""
    if "://" in audit:
        raise ConfigError(f"AUDIT {audit!r} is a url. Give a local folder: each verdict is synced to its disk.")
    return Path(audit)


def training_folder(out: str, runs: Iterable[str]) -> Path:
    """Return the local folder that `--out` of a training names; it lies in none of the `runs` that it reads."""
    if "://" in out:
        # A url is refused, because `Path` would drop one of its slashes and make a local folder.
        raise ConfigError(f"--out {out!r} is a url. Give a local folder, and copy it when the training has ended.")
    folder = Path(out)
    # The path is made absolute, because `RunLocation` expands a leading `~`, which a training's folder keeps.
    destination = RunLocation.open(str(folder.absolute()))
    for run in runs:
        check_apart(RunLocation.open_to_read(run), destination, option="--out")
    return folder
