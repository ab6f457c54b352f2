"""Referring-image-segmentation training data without a human: masks, distinctive expressions, Parquet.

The functions here are what the commands of the same names do. All of them take a run, SOURCE or an export as a local
path or a url, and raise `ConfigError` where the user must change something, `TransientError` where the same call may
succeed later. Importing this package loads neither torch nor Ray: each function loads what it needs.

    summary = pseudoris.annotate("photos/", "out/")
    kept = pseudoris.open_run("out/").expressions().to_table(filter=pyarrow.compute.field("kept"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if not (Path(__file__).parent / "schemas").is_dir():
    # Without this error, Python would silently import the rooms of the clone to which the environment belongs.
    raise ImportError(
        "the folder pseudoris/ has no links to its rooms: git made files of them. Run `git config core.symlinks true` "
        "and `git checkout -- pseudoris`, on Windows with the right to make links",
        name=__name__,
    )

if TYPE_CHECKING:
    # `as` marks a name as public for type checkers.
    from pseudoris.interchange.dataset import ExpressionFilter as ExpressionFilter
    from pseudoris.interchange.dataset import JoinedDataset as JoinedDataset
    from pseudoris.interchange.dataset import MixedDataset as MixedDataset
    from pseudoris.interchange.dataset import MixedIterableDataset as MixedIterableDataset
    from pseudoris.interchange.dataset import ResumableLoader as ResumableLoader
    from pseudoris.interchange.dataset import RisDataset as RisDataset
    from pseudoris.interchange.dataset import RisIterableDataset as RisIterableDataset
    from pseudoris.interchange.dataset import SampleSpec as SampleSpec
    from pseudoris.interchange.dataset import Snapshot as Snapshot
    from pseudoris.interchange.dataset import StreamOrder as StreamOrder
    from pseudoris.interchange.dataset import collate_lists as collate_lists
    from pseudoris.interchange.exports import ExportReport as ExportReport
    from pseudoris.interchange.exports import HumanAnnotation as HumanAnnotation
    from pseudoris.pipeline.run_contract import RunSummary as RunSummary
    from pseudoris.primitives.errors import ConfigError as ConfigError
    from pseudoris.primitives.errors import PseudorisError as PseudorisError
    from pseudoris.primitives.errors import TransientError as TransientError
    from pseudoris.schemas.config import RunConfig as RunConfig
    from pseudoris.schemas.config_layers import load_config as load_config
    from pseudoris.schemas.keep_rule import LoneMasks
    from pseudoris.store.checks.verification import VerifyReport as VerifyReport
    from pseudoris.store.exclusion_rules import Exclusions
    from pseudoris.store.runs.pending_work import Committed as Committed
    from pseudoris.store.runs.pending_work import Notice as Notice
    from pseudoris.store.runs.pending_work import Planned as Planned
    from pseudoris.store.runs.pending_work import Retried as Retried
    from pseudoris.store.runs.pending_work import RunEvent as RunEvent
    from pseudoris.store.runs.pending_work import Step as Step
    from pseudoris.store.sessions.combined_run import CombineSummary as CombineSummary
    from pseudoris.store.sessions.refiltered_run import RefilterSummary as RefilterSummary
    from pseudoris.store.tables.run_reader import Run as Run
    from pseudoris.training.evaluation import Evaluation as Evaluation
    from pseudoris.training.evaluation import Truth as Truth

    __version__: str

# Maps a public name to the module that defines it, which is imported when the name is first used (PEP 562).
_HOMES = {
    name: home
    for home, names in {
        "pipeline.run_contract": "RunSummary",
        "schemas.config": "RunConfig",
        "schemas.config_layers": "load_config",
        "primitives.errors": "ConfigError PseudorisError TransientError",
        "store.checks.verification": "VerifyReport",
        "store.runs.pending_work": "Committed Notice Planned Retried RunEvent Step",
        "store.sessions.combined_run": "CombineSummary",
        "store.sessions.refiltered_run": "RefilterSummary",
        "store.tables.run_reader": "Run",
        "interchange.dataset": (
            "ExpressionFilter JoinedDataset MixedDataset MixedIterableDataset ResumableLoader "
            "RisDataset RisIterableDataset SampleSpec Snapshot StreamOrder collate_lists"
        ),
        "training.evaluation": "Evaluation Truth",
        "interchange.exports": "ExportReport HumanAnnotation",
    }.items()
    for name in names.split()
}

__all__ = sorted(
    [*_HOMES, "__version__", "annotate", "combine", "evaluate", "export", "open_run", "refilter", "verify"]
)


def annotate(
    source: str | Path,
    out: str | Path,
    config: RunConfig | str | Path | None = None,
    *,
    limit: int | None = None,
    moved_from: str | Path | None = None,
    extend: bool = False,
    retry_failed: bool = False,
    retry_reasons: str | Sequence[str] = (),
    repair: bool = False,
    exclude: str | Path | Sequence[str | Path] = (),
    exclude_distance: int | None = None,
    only: str | Path | Sequence[str | Path] = (),
    on_event: Callable[[RunEvent], None] | None = None,
) -> RunSummary:
    """Annotate the images of `source` into the run at `out`; the same call again continues.

    Args:
        source: Folder, file, glob, url or prefix, WebDataset tars, or Parquet.
        out: Folder or url of the run.
        config: What `load_config` returns, the name of a preset, or the `Path` of a YAML file that names one; None
            continues the run at `out` with its own preset.
        limit: Plan the first `limit` images only.
        moved_from: What `source` was when the run began, if its images are at `source` now.
        extend: List `source` again and add its new images to the run.
        retry_failed: Compute the quarantined images again, and nothing else.
        retry_reasons: With `retry_failed`, only images quarantined for this reason code, or for one of these.
        repair: Read every file of the run, and write missing or damaged ones again with the same bytes.
        exclude: Images to leave out, as `--exclude`: a path, or several. Without a path, a run continues with its own.
        exclude_distance: As `--exclude-distance`.
        only: The images to take, as `--only`: a path, or several.
        on_event: Called with each `RunEvent`. None shows a bar in a notebook, and nothing elsewhere.

    Returns:
        The state of the run: `is_complete` if every shard is committed, `interrupted` if Ctrl-C ended the call.

    Raises:
        ConfigError: An argument or a setting is wrong, `source` has nothing to plan, `out` holds another run, or no
            preset is named.
        TransientError: Storage or the cluster failed; the same call continues.
    """
    from dataclasses import replace

    from pseudoris.primitives.extras import require_extra

    require_extra("run", "pseudoris.annotate")
    from pseudoris.cli.progress import notebook_progress
    from pseudoris.pipeline.annotation import annotate as run_pipeline
    from pseudoris.pipeline.run_contract import RunOptions, asked_preset
    from pseudoris.primitives.uris import one_or_several, place
    from pseudoris.schemas.config import RunConfig
    from pseudoris.schemas.config_layers import load_config
    from pseudoris.store.runs.pending_work import parse_reasons

    source, out = place(source, "source"), place(out, "out")
    if not isinstance(config, RunConfig):
        name = config if isinstance(config, str) else None
        file = None if config is None or name else place(config, "config")
        config = load_config(asked_preset(name, file, out=out), file)
    if repair:
        config = config.model_copy(update={"placement": config.placement.model_copy(update={"repair": True})})
    reasons = parse_reasons(one_or_several(retry_reasons) or None)
    excluded = _exclusions(exclude, exclude_distance, only)
    moved = None if moved_from is None else place(moved_from, "moved_from")
    options = RunOptions(limit, is_extension=extend, is_retry=retry_failed, reasons=reasons, exclusions=excluded)
    options = replace(options, moved_from=moved)
    return run_pipeline(source, out, config, options=options, on_event=on_event or notebook_progress())


def open_run(out: str | Path, *, source: str | Path | Mapping[str, str | Path] | None = None) -> Run:
    """Open the run at `out`, finished or not.

    Args:
        out: Folder or url of the run.
        source: Where its images are now, if they were moved; of a combined run by name.

    Returns:
        The run: its header, counts, tables and images.

    Raises:
        ConfigError: There is no run at `out`, or another version of the package wrote it.
        TransientError: Storage failed.
    """
    from pseudoris.files.location import RunLocation
    from pseudoris.primitives.uris import place, places
    from pseudoris.store.tables.run_reader import Run

    return Run(RunLocation.open(place(out, "out")), source=places(source, "source"))


def verify(out: str | Path, *, quick: bool = False, sample: int | None = None, root: str | None = None) -> VerifyReport:
    """Check that every planned image is accounted for once, and every file against the digests that lead to it.

    Args:
        out: Folder or url of the run.
        quick: Check sizes, numbers of rows and ids only; no digests, no masks.
        sample: Look into so many committed shards, spread evenly; all by default.
        root: The root digest that the run must have: `report.root` of an earlier call, or what the command printed.

    Returns:
        What was found; `report.is_clean` says whether all of it holds. Damage is in the report, not raised.

    Raises:
        ConfigError: There is no run at `out`, or its header cannot be used.
        TransientError: Storage failed.
    """
    from pseudoris.files.location import RunLocation
    from pseudoris.primitives.uris import place
    from pseudoris.store.checks.verification import verify_run

    return verify_run(RunLocation.open(place(out, "out")), quick=quick, sample=sample, root=root)


def refilter(
    out: str | Path,
    new: str | Path,
    *,
    tau: float | None = None,
    keep: str | Sequence[str] | None = None,
    lone_masks: LoneMasks | None = None,
    allow_mixed: bool = False,
) -> RefilterSummary:
    """Write the finished run at `out` as a new run with another rule of what is kept; no model runs.

    Args:
        out: Folder or url of the run; it is only read.
        new: Empty folder or url that gets the new run.
        tau: Keep expressions whose distinctiveness is above; None leaves it.
        keep: A condition such as "correctness > 0.2", or several; an empty sequence removes the run's own,
            None leaves them.
        lone_masks: What is kept of a mask that is alone in its image: `keep`, `drop` or `better_half`; None leaves it.
        allow_mixed: Continue with other package versions than `new` was started with.

    Returns:
        What the new run keeps, beside what the run at `out` keeps.

    Raises:
        ConfigError: The run at `out` is not complete, `new` holds another run, a condition cannot be read, or the rule
            changes nothing.
        TransientError: Storage failed; the same call continues.
    """
    from pseudoris.files.location import RunLocation
    from pseudoris.primitives.uris import one_or_several, place
    from pseudoris.schemas.keep_rule import parse_conditions
    from pseudoris.store.sessions.refiltered_run import RuleChange
    from pseudoris.store.sessions.refiltered_run import refilter as refilter_run

    parent, written = RunLocation.open(place(out, "out")), RunLocation.open(place(new, "new"))
    conditions = None if keep is None else parse_conditions(one_or_several(keep))
    return refilter_run(parent, written, RuleChange(tau, conditions, lone_masks), allow_mixed=allow_mixed)


def combine(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    unique: Literal["bytes", "similar"] | None = None,
    hold_out: Mapping[str, float] | None = None,
    group: str | Path | None = None,
    source: str | Path | Mapping[str, str | Path] | None = None,
    partial: bool = False,
    allow_mixed: bool = False,
) -> CombineSummary:
    """Write the images of several runs, or of one, as one run; no model runs, and every value stays.

    Args:
        runs: Folders or urls of the runs, each with `NAME=` before it if it has not the name of its folder. Of one run
            without a name keys stay; of several they are `<name>/<key>`, and ids follow.
        out: Empty folder or url that gets the new run.
        unique: `bytes` leaves out pictures that have the bytes of an earlier one, `similar` also those within 6 bits
            of its perceptual hash. `_left_out.parquet` lists them.
        hold_out: The share of pictures that each split gets, such as `{"val": 0.05}`; the rest is `train`. Copies and
            tiles of a picture are in one split, and a picture that has one keeps it.
        group: What else is in one split: `folder`, `similar`, or a `.parquet` or `.csv` with the columns key and group.
        source: Where the images are now, if they were moved, by the names of the runs; `similar` may read them.
        partial: Take what is committed of an unfinished run.
        allow_mixed: Continue with other package versions than `out` was started with.

    Returns:
        What the new run holds, by the names of its runs.

    Raises:
        ConfigError: A run is unfinished or damaged, holds `out` or is in it, or `out` holds another run; or two runs
            would have one name, or share a key under the one that they were given.
        TransientError: Storage failed; the same call continues.
    """
    from pseudoris.files.location import RunLocation
    from pseudoris.files.named_places import named_runs
    from pseudoris.primitives.errors import ConfigError
    from pseudoris.primitives.uris import one_or_several, place, places
    from pseudoris.store.runs.held_out_pictures import HoldOut
    from pseudoris.store.sessions.combined_run import combine as combine_runs

    given = named_runs([place(each, "runs") for each in one_or_several(runs)])
    named = [(name, RunLocation.open(each)) for name, each in given]
    if unique not in (None, "bytes", "similar"):
        raise ConfigError(f"unique={unique!r}: give 'bytes', 'similar', or None")
    target = RunLocation.open(place(out, "out"))
    moved, grouped = places(source, "source"), group if group is None else place(group, "group")
    drawn = None if hold_out is None and grouped is None else HoldOut.of(hold_out or {}, grouped)
    return combine_runs(
        named, target, is_partial=partial, unique=unique, hold_out=drawn, moved=moved, allow_mixed=allow_mixed
    )


def export(
    out: str | Path,
    destination: str | Path,
    export_format: str = "parquet",
    *,
    max_tokens: int | None = None,
    dataset: str | None = None,
    split: str | None = None,
    split_by: str = "pseudo",
    human: HumanAnnotation | None = None,
    target_mb: float = 256,
    distinctive_only: bool = False,
    masks: str | None = None,
    layout: str | None = None,
    license: str | None = None,
    coordinates: str | None = None,
    resize_factor: int | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    rewording: int = 0,
    any_targets: bool = False,
    source: str | Path | Mapping[str, str | Path] | None = None,
    partial: bool = False,
    overwrite: bool = False,
    exclude: str | Path | Sequence[str | Path] = (),
    exclude_distance: int | None = None,
    only: str | Path | Sequence[str | Path] = (),
) -> ExportReport:
    """Write the run at `out` in another format, and check what was written.

    `destination` is an empty folder or url, `export_format` a name as of `pseudoris export --format`: parquet, refer, …
    From `max_tokens` to `any_targets` they are the fields of `pseudoris.interchange.exports.ExportOptions`. What
    `source`, `partial`, `overwrite`, `exclude` and `only` (a path each, or several) and `exclude_distance` do, the
    command's help says.

    Returns:
        What was written.

    Raises:
        ConfigError: No such format or finished run, an argument that the format does not use, or a wrong `destination`.
        TransientError: Storage failed, or a part of the run cannot be read.
    """
    from pseudoris.interchange.exports import ExportOptions, export_request, find_export
    from pseudoris.primitives.uris import place, places

    out, destination = place(out, "out"), place(destination, "destination")
    options, moved = ExportOptions.named(locals()), places(source, "source")
    flags, excluded = {"is_partial": partial, "is_overwriting": overwrite}, _exclusions(exclude, exclude_distance, only)
    request = export_request(out, destination, export_format, options, source=moved, exclusions=excluded, **flags)
    return find_export(export_format).write(request, lambda done, total, /, stage="": None)


def evaluate(out: str | Path, truth: str | Path | Truth, *, sample: int | None = None) -> Evaluation:
    """Compare the run at `out` with a truth, from its tables alone.

    Args:
        out: Folder or url of the run.
        truth: "synthworld" (the truth.json beside SOURCE), "synthworld:FILE", or a run of `pseudoris import`;
            or an object that fulfils `Truth`.
        sample: Read so many shards, spread evenly; all by default.

    Returns:
        The figures, with intervals over images.

    Raises:
        ConfigError: There is no run at `out` or no such truth, nothing is committed, run and truth share no image, or a
            part is missing or damaged.
        TransientError: Storage failed, or a part does not read.
    """
    from pseudoris.files.location import RunLocation
    from pseudoris.primitives.uris import place
    from pseudoris.store.runs.header import require_header
    from pseudoris.synthworld.scene_truth import SceneTruth
    from pseudoris.training.evaluation import evaluate_run
    from pseudoris.training.evaluation.human_truth import open_truth

    location = RunLocation.open(place(out, "out"))
    if isinstance(truth, str | Path) or not hasattr(truth, "judges_texts"):
        truth = open_truth(place(truth, "truth"), require_header(location), SceneTruth)
    return evaluate_run(location, truth, sample=sample)


def _exclusions(
    exclude: str | Path | Sequence[str | Path], max_distance: int | None, only: str | Path | Sequence[str | Path] = ()
) -> Exclusions:
    from pseudoris.interchange.exclusions import read_exclusions
    from pseudoris.primitives.uris import one_or_several, place

    left_out, taken = one_or_several(exclude), one_or_several(only)
    paths, wanted = ([place(each, name) for each in given] for name, given in (("exclude", left_out), ("only", taken)))
    return read_exclusions(paths, max_distance, wanted)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("pseudoris")
    from pseudoris.schemas import lazy_names

    return lazy_names(__name__, _HOMES)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
