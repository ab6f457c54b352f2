"""`pseudoris config` and `init`: shows settings with their reasons, compares them, and writes a file to begin with.

Called by `main`; the docs take `schema_text`. What it prints and writes is what `--config` reads, and it never replaces
a settings file.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pseudoris.cli import options
from pseudoris.cli.console import echo
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas import config_layers as layers
from pseudoris.store.runs.header import require_header

app = typer.Typer(help="Show the settings of a preset, compare two, or print their schema.", no_args_is_help=True)

DIFFERENT: Final = 1
SCHEMA_NAME: Final = "run.schema.json"
# Users change these settings most often.
_COMMON: Final = (
    *("images.decoder_plugins", "masks.weights.uri", "masks.points_per_side", "masks.pred_iou_thresh"),
    *("captions.weights.uri", "filtering.weights.uri", "filtering.tau", "filtering.keep"),
    *("compute.device", "compute.precision", "compute.threads", "compute.seed"),
    *("shards.max_images", "shards.embed_images", "placement.address", "placement.fused.num_gpus"),
)
_HEAD: Final = """\
# yaml-language-server: $schema={schema}
# Settings laid over the preset {preset}. SOURCE is a folder or url of images, OUT an empty folder or url:
#   pseudoris annotate SOURCE OUT --preset {preset} --config {name}
# Remove the first # of a setting, and of the sections above it, to change it. Here are those that are changed most;
# `pseudoris config show {preset}` prints all.
"""
_SIDE: Final = "A preset, a YAML file for --config, or a run."


@app.command()
def show(
    preset: Annotated[str | None, typer.Argument(metavar="[PRESET]", help="As `--preset` of annotate.")] = None,
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """Print every setting as YAML, with where it was set and its reason.

    The output is a file that --config takes. A section that is off is a comment.
    """
    named = layers.load_config(preset, config, assignments or ()).preset
    own = layers.own_layers(config, assignments or ())
    echo(layers.shown_config([*layers.preset_layers(named), *own]), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a file for --config, for editors and checks."""
    echo(schema_text(), nl=False)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    after: Annotated[str, typer.Argument(metavar="B", help=_SIDE)],
    preset: options.Preset = None,
) -> None:
    """Print each key that differs, with its value in A and in B.

    --preset is what YAML files are laid over. The exit code is 1 if a key differs.
    """
    first, second = (_settings_of(each, preset) for each in (before, after))
    # The name of the preset changes no table, so it is not compared.
    keys = [each for each in layers.settings() if each.section is None and each.key != "preset"]
    pairs = [(each.key, each.value(first), each.value(second)) for each in keys]
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    for key, *values in differing:
        shown = (textwrap.shorten(json.dumps(each, ensure_ascii=False), 100, placeholder=" …") for each in values)
        echo(f"{key}: {' -> '.join(shown)}")
    if differing:
        raise typer.Exit(DIFFERENT)


def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The file to write.")] = Path("run.yaml"),
    preset: options.Preset = None,
) -> None:
    """Write a commented settings file for `annotate --config`.

    Its schema for editors is written beside it, over an earlier one. An existing settings file is never replaced.
    """
    preset = preset or "tiny"
    tree = layers.load_config(preset).model_dump(mode="json")
    lines = [_HEAD.format(schema=SCHEMA_NAME, preset=preset, name=path.name)]
    for each in layers.settings():
        start = "#" + "  " * (len(each.path) - 1)
        if each.key in _COMMON:
            lines += [f"{start}# {line}\n" for line in textwrap.wrap(each.reason, 100)]
            lines += [f"{start}{each.path[-1]}: {json.dumps(each.value(tree), ensure_ascii=False)}\n"]
        elif any(key.startswith(f"{each.key}.") for key in _COMMON):
            lines += [f"{start}{each.path[-1]}:\n"]
    schema_path = path.with_name(SCHEMA_NAME)
    options.check_file(path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(lines)
        schema_path.write_text(schema_text(), encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{path} exists: give another PATH, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}): give another PATH") from error
    echo(f"wrote {path}, over the preset {preset}, and {schema_path}")


def _settings_of(word: str, preset: str | None) -> dict[str, Any]:
    if word in layers.preset_names():
        return layers.load_config(word).model_dump(mode="json")
    if Path(word).suffix in (".yaml", ".yml"):
        return layers.load_config(preset, word).model_dump(mode="json")
    if "://" not in word and not Path(word).exists():
        raise ConfigError(f"{word!r} is no preset ({', '.join(layers.preset_names())}), no .yaml file, and no run")
    return require_header(RunLocation.open_to_read(word)).config.model_dump(mode="json")


def schema_text() -> str:
    """Return what `config schema` prints."""
    return json.dumps(layers.config_schema(), indent=1, ensure_ascii=False) + "\n"
