"""`pseudoris tile`: cuts large and long pictures into squares that SAM sees well, before they are annotated.

Called by `main`; `interchange/tile_tars` does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pseudoris.cli import options
from pseudoris.cli.console import note, stdout
from pseudoris.cli.formats import command, counted, facts_table, path_lines
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import bar, resumable
from pseudoris.files.location import RunLocation
from pseudoris.images.tiles import TileForm
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.sources import open_source

if TYPE_CHECKING:
    from pseudoris.interchange.tile_tars import TileSummary


def tile(
    source: options.Source,
    dest: Annotated[str, argument("DEST", "Folder or url for the tars of tiles: the SOURCE of `annotate`.")],
    size: Annotated[int, option("--size", "Longest side of a tile, in pixels.", min=64, max=2**14)] = 1024,
    overlap: Annotated[
        int,
        option(
            "--overlap",
            "Pixels that neighbours share, as many as the largest object; at most 3/4 of a tile.",
            min=0,
            max=2**13,
        ),
    ] = 128,
    exclude: options.Exclude = None,
    exclude_distance: options.ExcludeDistance = None,
    only: options.Only = None,
    config_file: options.ConfigFile = None,
    assignments: Annotated[list[str] | None, options.set_one("images.bits=12")] = None,
) -> None:
    """Cut large and long pictures into overlapping squares, to annotate these.

    A picture with no side longer than --size, and none more than twice as long as the other, is copied as it is. Run
    the same command again to continue.
    """
    from pseudoris.interchange.tile_tars import tile as write_tiles

    options.refuse_second_match(source, dest)
    config = load_config(None, config_file, assignments or ())
    limits = config.placement.storage
    target = RunLocation.open(dest, config.source.endpoint_url, limits)
    rules = options.read_exclude(exclude, exclude_distance, only)
    opened = open_source(source, config.source, exclude=dest, limits=limits)
    with resumable(dest) as planned, bar("listing SOURCE") as show:

        def on_progress(done: int, total: int) -> None:
            planned.set()
            show(done, total, "cutting pictures")

        form = TileForm(size, overlap)
        found = write_tiles(opened, target, config, form, rules=rules, on_progress=on_progress, on_wait=note)
    # `annotate` must decode what was copied as tiles were decoded. A least side is one of whole pictures.
    usual, given = (vars(each) for each in (load_config(None).images, config.images))
    differ = [name for name in ("bits", "window", "decoder_plugins") if given[name] != usual[name]]
    _print(dest, found, [f"images.{name}={given[name] if name == 'bits' else list(given[name])}" for name in differ])


def _print(dest: str, found: TileSummary, images: list[str]) -> None:
    table = facts_table(f"{dest}: complete")
    table.add_row("cut", f"{counted(found.num_cut, 'picture')} into {counted(found.num_tiles, 'tile')}")
    table.add_row("copied", f"{counted(found.num_copied, 'picture')} that fit")
    if left_out := found.left_out + type(found.left_out)({"excluded": found.num_excluded}):
        table.add_row("left out", ", ".join(f"{number:,} {reason}" for reason, number in left_out.most_common()))
    before = f", {found.num_tars_before:,} of them by an earlier call" if found.num_tars_before else ""
    table.add_row("tars", f"{found.num_tars:,}{before}")
    stdout.print(table, soft_wrap=True)
    if found.examples:
        stdout.print(path_lines("left out", found.examples), soft_wrap=True)
    for line in found.notes:
        note(line)
    words = ["annotate", dest, "OUT", "--preset", "PRESET", *(word for each in images for word in ("--set", each))]
    stdout.print(path_lines("next", {"annotate": command(*words)}), soft_wrap=True)
