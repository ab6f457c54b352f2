"""What a caller of `annotate` gives and gets: options, the preset, the summary, and what a run would take.

Used by most modules here, by `cli` and by `pseudoris.annotate`, whose users read the fields of `RunSummary`. It imports
neither Ray nor torch, so that the command line starts quickly. The bytes of a run's tables are told without running a
model; what a sample measures is in `sample_estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from operator import add
from pathlib import Path
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.images.tiles import MOST_RATIO
from pseudoris.primitives.errors import ConfigError, check_number
from pseudoris.schemas.config import PRESETS_KNOW, RunConfig
from pseudoris.schemas.config_layers import laid, named_preset, own_layers, preset_layers, preset_names, validate
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.exclusion_rules import Exclusions
from pseudoris.store.runs.copied_pictures import CopyCounts
from pseudoris.store.runs.extension import ExtensionTally
from pseudoris.store.runs.header import check_origin, read_header, require_header
from pseudoris.store.runs.plan import PlanTally
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one session of a run does, besides continuing its plan.

    Attributes:
        limit: Plan only the first `limit` images. It does not change an existing plan.
        is_extension: List SOURCE again and plan its new images.
        is_retry: Compute the quarantined images again, and nothing else.
        reasons: With `is_retry`, only images quarantined for one of these reasons; None for all.
        exclusions: Images that a new run leaves out; of an existing run they must be the same, or none.
        moved_from: The SOURCE of the run's header, if the images are at another place now.
        is_dry: Weights behind urls are not fetched; their stores are asked whether they exist.
    """

    limit: int | None = None
    is_extension: bool = False
    is_retry: bool = False
    reasons: frozenset[str] | None = None
    exclusions: Exclusions = ()
    moved_from: str | None = None
    is_dry: bool = False

    @property
    def modes(self) -> list[str]:
        """The options of `annotate` that need a run in OUT."""
        is_moved = self.moved_from is not None
        given = {"--extend": self.is_extension, "--retry-failed": self.is_retry, "--moved-from": is_moved}
        return [name for name, value in given.items() if value]


def asked_preset(
    preset: str | None,
    path: str | Path | None = None,
    assignments: Sequence[str] = (),
    *,
    out: str | None = None,
    masks_from: str | None = None,
    modes: Sequence[str] = (),
) -> str:
    """Return the preset that is named: by `preset`, the YAML at `path`, or the run in `out` or `masks_from`.

    Raises:
        ConfigError: None is named: the message says what the models of each know. Or the settings fit no preset. Or
            `modes`, as of `RunOptions`, need a run in `out`.
    """
    own = own_layers(None if path is None else Path(path), assignments)
    if named := preset or named_preset(own):
        return named
    for name in preset_names():
        # The endpoint and the storage limits do not depend on the preset, so the first preset that fits is enough.
        with suppress(ConfigError):
            config = validate(laid([*preset_layers(name), *own]))
            break
    else:
        config = validate(laid([*preset_layers("tiny"), *own]))
    endpoint, limits = config.source.endpoint_url, config.placement.storage
    of_out = partial(_standing, modes=modes)
    for run, read in ((out, of_out), (masks_from or config.placement.masks_from, require_header)):
        header = None if run is None else read(RunLocation.open(run, endpoint, limits))
        if header is not None and header.config.preset in preset_names():
            return header.config.preset
    raise ConfigError(
        f"no preset is named: which images do you have? Give --preset (in Python: config=) with one of\n{PRESETS_KNOW}"
    )


def check_options(location: RunLocation, options: RunOptions, *, is_repair: bool = False) -> RunHeader | None:
    """Accept `options` if they fit the run in `location`; return its header, None if there is no run.

    Exclusions are compared when the run is opened.
    """
    check_number("limit", options.limit, 1)
    if is_repair + options.is_extension + options.is_retry > 1:
        raise ConfigError("--repair, --extend and --retry-failed exclude each other: run the command once with each")
    if options.reasons is not None and not options.is_retry:
        raise ConfigError("--retry-reasons selects what --retry-failed retries: give both, or neither")
    header = _standing(location, modes=[*options.modes, "--repair"] if is_repair else options.modes)
    if header is not None:
        check_origin(location, header, "annotate")
    return header


def _standing(location: RunLocation, *, modes: Sequence[str]) -> RunHeader | None:
    if not modes:
        return read_header(location)
    return require_header(location, f"leave {' and '.join(modes)} out for a new run, or name the OUT of the run")


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `annotate` would do, in figures: the result of a dry run. Nothing was written.

    Attributes:
        num_repeated: Listed images whose key was already listed; they are not planned again.
        num_shards_done: Shards that are already committed; 0 if OUT holds no run.
        weights: By stage, where they come from and their sha256.
        output_basis: What the estimate of `output_bytes`, the size of the tables, stands on.
        extension: With `--extend`, the result of listing SOURCE again; the figures above then include the extension.
        num_to_retry: With `--retry-failed`, how many images would be computed again.
        num_to_repair: With `--repair`, how many shards have missing or damaged parts.
        num_excluded: Listed images of a new run that its exclusions by name leave out.
        left_out: What the listing passed over, and the remedies: a sentence each.
        decoder: What decodes CoCa's captions, and why it is the slower one; empty for `auto` on a CPU.
        by_card: What a new run takes from its GPU, `KEY=VALUE, …`; else empty.
    """

    source: str
    out: str
    num_images: int
    num_repeated: int
    num_shards: int
    num_shards_done: int
    input_bytes: int
    actors: Mapping[str, int]
    weights: Mapping[str, tuple[str, str]]
    device_kind: str
    output_bytes: int
    output_basis: str
    extension: ExtensionTally | None = None
    num_to_retry: int | None = None
    num_to_repair: int | None = None
    num_excluded: int = 0
    left_out: tuple[str, ...] = ()
    decoder: str = ""
    by_card: str = ""


@dataclass(frozen=True, slots=True)
class RetryTally:
    """The result of a retry.

    Attributes:
        num_images: Images that were computed again.
        num_recovered: Of these, images that are no longer in quarantine.
        num_shards: Shards that hold these images.
        num_shards_changed: Of these, shards with a new generation.
    """

    num_images: int = 0
    num_recovered: int = 0
    num_shards: int = 0
    num_shards_changed: int = 0

    def __add__(self, other: RetryTally) -> RetryTally:
        return RetryTally(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The state of a run after a session.

    Attributes:
        out: Path or url of the run's folder.
        totals: Over all committed shards.
        num_planned_images: Images in the plan; equal to `totals.images` when the run is complete.
        num_planned_shards: Shards in the plan.
        num_shards_before: Shards that earlier sessions committed.
        num_images_now: Images of shards that this session committed or repaired.
        wall_s: Seconds from the start of the graph to its end.
        tables: By table, the glob that reads it when the run is complete.
        interrupted: Whether Ctrl-C, SIGTERM or SIGHUP ended this session.
        retry: The result of a retry; None if shards were computed for the first time.
        warning: What must stand above figures of the run: `RunHeader.warning`.
        left_out: What the listing passed over, and the remedies; empty if this session did not list SOURCE.
        speed: The run's speed as `status` has it, over all of its sessions, without starts and pauses.
        copies: How many images of the run are copies of others; None after an interrupt.
    """

    out: str
    totals: RunTotals
    num_planned_images: int
    num_planned_shards: int
    num_shards_before: int
    num_images_now: int
    wall_s: float
    tables: Mapping[str, str]
    interrupted: bool = False
    retry: RetryTally | None = None
    warning: str | None = None
    left_out: tuple[str, ...] = ()
    speed: str = "–"
    copies: CopyCounts | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return self.totals.shards == self.num_planned_shards


def table_globs(uri_of: Callable[[str], str]) -> dict[str, str]:
    """Return the glob of each table by name, expressions first: people look at those."""
    names = sorted(SCHEMAS, key=lambda name: name != EXPRESSIONS)
    return {name: uri_of(f"{name}/*.parquet") for name in names}


# Bytes of a shard's footers and column docs, and compressed bytes of each row. Source: measured, all four tables, on
# the demonstration run (69 images, 321 masks, 14,124 draws, `tiny`).
BYTES_PER_SHARD: Final = 16_000
BYTES_PER_IMAGE: Final = 100
BYTES_PER_MASK: Final = 150
BYTES_PER_DRAW: Final = 30
# The estimate assumes this many masks per image, because no model has run yet. The demonstration's scenes have 4.6.
ASSUMED_MASKS_PER_IMAGE: Final = 5


def output_size(tally: PlanTally, committed: RunTotals, config: RunConfig) -> tuple[int, str]:
    """Return the estimated bytes of a plan's tables, and what that stands on: committed images, if there are any."""
    if committed.images:
        each = committed.output_bytes // committed.images
        basis = f"from the {committed.images} images committed so far, {each} bytes each"
        return committed.output_bytes * tally.num_images // committed.images, basis
    captions = config.captions
    draws = len(captions.decoding_rules()) * len(captions.crop_kinds())
    per_mask = BYTES_PER_MASK + draws * BYTES_PER_DRAW
    tables = tally.num_shards * BYTES_PER_SHARD
    tables += tally.num_images * (BYTES_PER_IMAGE + ASSUMED_MASKS_PER_IMAGE * per_mask)
    basis = f"assuming {ASSUMED_MASKS_PER_IMAGE} masks per image, {per_mask:,} bytes per mask as on the bundled scenes"
    if config.shards.embed_images:
        return tables + tally.size_bytes, f"{basis}, plus the embedded images"
    return tables, basis


# SAM misses objects of images that are larger than this many times its input, or longer than this ratio: 16 shapes of a
# square drawing, all found, were 10 at 2:1 and 2 at 4:1.
_MOST_TIMES: Final = 4
# These engines tell no architecture; they see 1,024 or 1,008. Of `ready` and plug-ins it is not known what sees images.
_OTHER_SAMS: Final = ("sam2", "sam3", "sam3_concepts")
_OTHER_SIDE: Final = 1_024
# Below this share of such images nothing is said.
_FEW: Final = 0.05


def tile_sentence(sizes: Iterable[tuple[int, int]], config: RunConfig) -> str:
    """Return what to do before images of these (height, width) are annotated; "" if few are too large or too long.

    Also "" where no SAM sees them.
    """
    engine, named = config.masks.engine, config.masks.architecture
    if engine not in ("sam", *_OTHER_SAMS):
        return ""
    side = sam_architecture(named).image_size if engine == "sam" else _OTHER_SIDE
    found = [max(size) > _MOST_TIMES * side or max(size) > MOST_RATIO * min(size) for size in sizes]
    if sum(found) <= _FEW * len(found):
        return ""
    return (
        f"{sum(found):,} of {len(found):,} images have a side above {_MOST_TIMES * side:,} pixels, or are longer than "
        f"{MOST_RATIO}:1. SAM sees {side:,} pixels a side, and misses small objects in them. Cut them into overlapping "
        f"squares, and annotate these: pseudoris tile SOURCE DEST --size {side}"
    )
