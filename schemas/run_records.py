"""Records of a run besides its tables, which every reader parses: header, rows of the plan, receipts, audits.

Runs on disk hold them: a change that older ones do not fit raises RECORDS_VERSION. Most rooms and users read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.primitives.uris import NO_FIELDS, masked
from pseudoris.schemas.card_settings import SLOTS
from pseudoris.schemas.config import RunConfig, drawn_warning
from pseudoris.schemas.frozen import FrozenModel, Sha256
from pseudoris.schemas.tables import SCHEMAS

# All JSON records of runs and audits have this version. Pseudoris 0.4 wrote version 2.
RECORDS_VERSION: Final = 3

PLAN_FOLDER: Final = "_plan"
RECEIPTS_FOLDER: Final = "_receipts"
MANIFEST_FOLDER: Final = "_manifest"
HEADER_NAME: Final = "_run.json"
# What settings of the method mean that it leaves out; all others are absent.
_LEFT_OUT: Final = {"method.captions.decoder": "auto", "method.images.bits": "stored", "method.images.phash": False}
# If its versions name the slots of a run, these settings decide no bit.
_OF_SLOTS: Final = {f"method.captions.{name}" for name in ("cache_bytes", "crops_together", "slots")}
_OTHER_BITS: Final = " (the CPU rounds otherwise, by its model or by a variable, or the run does not say how it rounds)"

Origin = Literal["annotate", "refilter", "import", "ppt", "combine"]
_Section = dict[str, JsonValue] | None
# The fields of a receipt that count by names; those of versions before 0.7 lack them.
COUNTED_BY_NAME: Final = ("masks_left", "emptied", "notes")
# A count that most receipts lack.
_Rare = Annotated[int, Field(ge=0, exclude_if=lambda number: not number)]
_RareCounts = Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(exclude_if=lambda counts: not counts)]
_Model = TypeVar("_Model", bound=FrozenModel)


class PartRecord(FrozenModel):
    """One Parquet file by name: how many rows, how many bytes, and the sha256 of its bytes."""

    # The name is at most one folder deep, so that an edited record cannot point outside of the run.
    name: str = Field(pattern=r"^([\w-][\w.-]*/)?[\w-][\w.-]*$")
    rows: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class SealedRecord(FrozenModel):
    """A JSON record of a run that ends with the digest of its own content.

    Attributes:
        sha256: Digest of the file's bytes without this field, its last one; None before it is written.
    """

    version: int = RECORDS_VERSION
    sha256: Sha256 | None = None

    @property
    def digest(self) -> str:
        """The digest of a record that was written, 64 hex digits."""
        if self.sha256 is None:
            raise ValueError("the record has not been sealed")
        return self.sha256


class Identity(FrozenModel):
    """What decides the tables' bytes. Two starts belong to one run only if their identities are equal.

    Attributes:
        method: `RunConfig.method()`.
        weights: sha256 by stage (`propose`, `caption`, `filter`).
        device_kind: Name of the GPU, or `cpu` with its vector capability and, after `bits`, a digest of what torch
            computes on it, which versions before 0.7 lack; `none` if no model computes, as in an import.
        versions: Version by package, of the packages that compute and write.
        folders: Of stages whose weights are a model folder: sha256 by its parts (`weights`, `tokenizer`, ...), and
            `attention`, the implementation.
    """

    method: dict[str, JsonValue]
    weights: dict[str, str]
    device_kind: str
    versions: dict[str, str]
    folders: dict[str, dict[str, str]] = Field(default={}, exclude_if=lambda folders: not folders)

    def differences(self, other: Identity) -> list[str]:
        """Return one line for each field that differs, `compute.seed: 0 in the run, 1 now`; empty if equal."""
        mine, theirs = (_LEFT_OUT | _flat(each.model_dump(mode="json")) for each in (self, other))
        compared = (mine.keys() | theirs.keys()) - (_OF_SLOTS if SLOTS in self.versions else set())
        keys = [key for key in sorted(compared) if mine.get(key) != theirs.get(key)]
        before, now = ([masked(each.get(key, "absent"), NO_FIELDS, key) for key in keys] for each in (mine, theirs))
        names = [key.removeprefix("method.") for key in keys]
        lines = [f"{key}: {old!r} in the run, {new!r} now" for key, old, new in zip(names, before, now, strict=True)]
        # The digest of what a CPU computes follows its name.
        is_one_kind = self.device_kind.partition(" bits ")[0] == other.device_kind.partition(" bits ")[0]
        return [line + _OTHER_BITS * (is_one_kind and line.startswith("device_kind")) for line in lines]

    def settings_beside(self, other: Identity) -> list[str]:
        """Return `KEY=VALUE`, as `--set` takes it, of the settings that `other` has not; none if one holds a secret."""
        mine, theirs = _flat(self.method), _flat(other.method)
        held = {key: value for key, value in mine.items() if theirs.get(key, ...) != value and ".values." not in key}
        return [f"{key}={json.dumps(value)}" for key, value in held.items()] if masked(held, NO_FIELDS) == held else []

    def mixed_differences(self, other: Identity) -> list[str]:
        """Return the lines of `differences` that `--allow-mixed` accepts: device kind and package versions."""
        return self.differences(self.model_copy(update={"device_kind": other.device_kind, "versions": other.versions}))

    def method_differences(self, other: Identity) -> list[str]:
        """Return the lines of `differences` that no option accepts: method and weights."""
        held = {"method": other.method, "weights": other.weights, "folders": other.folders}
        return self.differences(self.model_copy(update=held))


class ParentRun(FrozenModel):
    """The run that another run was made from: a complete one, or what was committed of it.

    Attributes:
        location: The absolute path or url of its folder at that time; it may have moved since.
        created_utc: When it was created; it tells apart two runs that used the same folder one after the other.
        manifest: Number of the snapshot of its receipts that was read; 0 of an unfinished run.
        manifest_sha256: sha256 of that snapshot's bytes; of an unfinished run, over the digests of the receipts.
        commits: Of an unfinished run the receipts that were read: [first shard, number of shards, generation].
    """

    location: str
    created_utc: str
    manifest: int = Field(ge=0)
    manifest_sha256: Sha256
    commits: tuple[tuple[int, int, int], ...] = Field(default=(), exclude_if=lambda commits: not commits)


class CombinedRun(FrozenModel):
    """A run whose images a combined run holds, with what its header says of them; its shards follow one another.

    Attributes:
        name: The keys of its images begin with it, and a `/`; "" where they are as they were.
        run: The run that `combine` was given: this one, or a combined one that holds it; `root` is its root digest.
        num_shards: How many of the combined run's shards are its.
        parent: As in its header, like the other fields.
    """

    name: str
    run: ParentRun
    root: Sha256
    num_shards: int = Field(ge=0)
    source: str
    origin: Origin
    identity: Identity
    config: RunConfig
    parent: ParentRun | None = None
    domain: _Section = Field(default=None, exclude_if=lambda domain: domain is None)
    audits: _Section = Field(default=None, exclude_if=lambda audits: audits is None)
    exclusions: _Section = Field(default=None, exclude_if=lambda exclusions: exclusions is None)


class SplitRecord(FrozenModel):
    """What splits the images of a run are in, each in one at most.

    Attributes:
        images: How many images each split has, "" for those in none.
        sha256: Over the split of each image, so that no later call draws another.
    """

    images: dict[str, int]
    sha256: Sha256


class RunHeader(SealedRecord):
    """`_run.json`: written once, after the plan; no shard starts without it.

    When it is read, its plan includes the extensions (`PlanExtension`), and `sha256` is that of the last one: a reader
    sees one plan.

    Attributes:
        source: SOURCE; an absolute path if local. Userinfo and queries are rejected before they get here.
        plan_parts: The plan's files in order of their shards; names relative to `_plan/`.
        num_images: Images planned; a repeated key counts once.
        num_repeated: Listed entries whose key was listed before.
        max_shard_bytes: Expected bytes of the largest shard's images, encoded; uris in tables count as 0.
        config: The configuration that the run was created with.
        config_sha256: `config_hash` of it.
        origin: What made the tables: `annotate` (models), `refilter` (a parent run's scores), `import` (human
            annotation, or a person's corrections of the parent), `ppt` (one of its data recipes), or `combine` (other
            runs).
        parent: The run whose results this one reuses; else None.
        domain: What a sample of SOURCE said when 0.5 planned the run; else None.
        audits: `AuditRecord`: the audit that its rule was chosen by; None without one.
        exclusions: `store.exclusion_rules.ExclusionRecord`: what was left out of the plan; None without a rule.
        combined: The runs that `combine` made it or a run above it of, by their shards; `config` is that of the first.
        left_out: The list of the images that `combine` did not take, `_left_out.parquet`; None without.
        splits: The splits of its images: drawn by `combine --hold-out`, a parent's, or imported since 0.7; else None.
        name: In `runs`, the name that the run has in a combined one; else "". Not in the file, as `earlier`.
        earlier: Digests of the header before each extension of its plan.
    """

    source: str
    created_utc: str
    plan_parts: tuple[PartRecord, ...]
    num_images: int = Field(ge=0)
    num_repeated: int = Field(ge=0)
    num_shards: int = Field(ge=0)
    max_shard_bytes: int = Field(default=0, ge=0)
    identity: Identity
    config: RunConfig
    config_sha256: str
    origin: Origin = "annotate"
    parent: ParentRun | None = None
    domain: _Section = Field(default=None, exclude_if=lambda domain: domain is None)
    audits: _Section = None
    exclusions: _Section = None
    combined: tuple[CombinedRun, ...] = Field(default=(), exclude_if=lambda combined: not combined)
    left_out: PartRecord | None = Field(default=None, exclude_if=lambda left_out: left_out is None)
    splits: SplitRecord | None = Field(default=None, exclude_if=lambda splits: splits is None)
    name: str = Field(default="", exclude=True)
    earlier: frozenset[Sha256] = Field(default=frozenset(), exclude=True)

    @property
    def digests(self) -> frozenset[str]:
        """What the receipts of the run name: the digest of the header, or of an extension of its plan."""
        return self.earlier | {self.digest}

    @property
    def runs(self) -> tuple[Self, ...]:
        """The header of each run that was combined, with the settings that its images were made by; else this one."""
        return tuple(map(self._as, self.combined)) or (self,)

    @property
    def above(self) -> tuple[ParentRun, ...]:
        """The runs that this one was made from."""
        return tuple(dict.fromkeys(each.run for each in self.combined)) if self.parent is None else (self.parent,)

    def place_of(self, shard: int) -> int:
        """Return the place in `runs` of that which the shard is from; the last one for numbers above all shards."""
        ends = accumulate(each.num_shards for each in self.combined[:-1])
        return sum(end <= shard for end in ends)

    def of_shard(self, shard: int) -> Self:
        """Return that of `runs` which the shard is from, as of `place_of`."""
        return self._as(self.combined[self.place_of(shard)]) if self.combined else self

    def _as(self, run: CombinedRun) -> Self:
        fields = (name for name in CombinedRun.model_fields if name in type(self).model_fields)
        return self.model_copy(update={"combined": (), **{name: getattr(run, name) for name in fields}})

    def with_configs(self, change: Callable[[RunConfig], RunConfig]) -> Self:
        """Return it with `change` of the configuration, and of that of each run that was combined."""
        held = (each.model_copy(update={"config": change(each.config)}) for each in self.combined)
        return self.model_copy(update={"config": change(self.config), "combined": tuple(held)})

    def section(self, name: Literal["audits", "exclusions"], model: type[_Model]) -> _Model | None:
        """Return a section, None if the header has none; ConfigError if it was edited, or another version wrote it."""
        found = getattr(self, name)
        try:
            return None if found is None else model.model_validate(found)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, item["loc"])) for item in error.errors()}))
            raise ConfigError(
                f"the section {name} of the run's header is not what this version writes, see {places}: use the "
                "version of pseudoris that wrote it, or name another output"
            ) from None

    @property
    def warning(self) -> str | None:
        """What must stand above figures of the run: that its models do not know its images, or drawn scenes alone."""
        if self.combined:
            return next(filter(None, (each.warning for each in self.runs)), None)
        if self.domain and self.domain.get("num_outside"):
            found = f"{self.domain['num_outside']} of {self.domain.get('num_sampled')} sampled images"
            return f"{found} are unlike all that the models know. Do not trust masks and expressions of such images."
        return drawn_warning(self.config.preset) if self.origin in ("annotate", "refilter") else None

    @property
    def is_human(self) -> bool:
        """Whether people made all of it; a run of models that people corrected is an import of another kind."""
        if self.combined:
            return all(each.is_human for each in self.runs)
        return self.origin == "import" and (self.parent is None or "import" in self.identity.method)

    @property
    def is_corrected(self) -> bool:
        """Whether a person corrected some of it, also before a refilter."""
        return any("corrections" in each.identity.method for each in (self, *self.runs))


class PlanExtension(SealedRecord):
    """`_plan/g0002.json`: images added to SOURCE since the plan before. Created once, after its parts of the plan.

    Its shards continue the numbering of the plan before it, without a gap.

    Attributes:
        number: Generation of the plan, from 2.
        plan_parts: Its files in order; names relative to `_plan/`.
        num_repeated: Listed entries of a new key that was listed before.
        max_shard_bytes: As in the header.
        header_sha256: `sha256` of the extension before it, or of the header.
        domain: As in the header.
        exclusions: As in the header, of the images that it plans.
    """

    number: int = Field(ge=2)
    created_utc: str
    plan_parts: tuple[PartRecord, ...]
    num_images: int = Field(ge=1)
    num_repeated: int = Field(ge=0)
    num_shards: int = Field(ge=1)
    max_shard_bytes: int = Field(default=0, ge=0)
    header_sha256: Sha256
    domain: _Section = Field(default=None, exclude_if=lambda domain: domain is None)
    exclusions: _Section = None


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A planned input image; the columns of `tables.PLAN_SCHEMA`, which documents them. Null is None."""

    shard: int
    position: int
    image_id: str
    key: str
    size_bytes: int | None = None
    etag: str | None = None
    mtime_ns: int | None = None
    offset_bytes: int | None = None
    row_group: int | None = None
    row: int | None = None


class ShardCounts(FrozenModel):
    """Counts of a shard's contents; images = annotated + empty + quarantined."""

    images: int = Field(ge=0)
    annotated: int = Field(ge=0)
    empty: int = Field(ge=0)
    quarantined: int = Field(ge=0)
    masks: int = Field(ge=0)
    expressions: int = Field(ge=0, description="Candidate rows; equal captions of a mask are one.")
    samples: int = Field(ge=0, description="Draws, before equal captions were merged.")
    kept: int = Field(ge=0)
    kept_lone: int = Field(ge=0, description="Of these, captions of masks alone in their image.")
    reasons: dict[str, int] = Field(default_factory=dict)

    @property
    def num_shown(self) -> int:
        """Images that are not quarantined."""
        return self.annotated + self.empty

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.num_shown + self.quarantined
        if total != self.images:
            raise ValueError(f"{self.images} images, but {total} are annotated, empty or quarantined")
        return self


class Receipt(SealedRecord):
    """Commits one generation of a shard: it names the parts that count. Written last, created once.

    Attributes:
        parts: By table name, all of `tables.SCHEMAS`.
        seconds: Wall seconds by stage; `nodes` are the ids of the Ray nodes that worked on it.
        attempts: How often each pool started on the shard, over all sessions. Above 1: again after a loss.
        degraded: Settings that were lowered or replaced for this shard (`--allow-degraded`), as `captions.cache_bytes`:
            value. Its bytes may differ from those of other runs.
        mixed: With `--allow-mixed`, how the machine that computed the shard differed from the run's identity, a line
            for each field. Its bytes may differ from those of other runs.
        long_texts: Draws that are no candidates, because their texts are longer than the filter reads.
        decisions: What captions in fixed shapes decided: tokens of rows, and steps of searches.
        wide_decisions: Of these, over the whole vocabulary, because the top logits could not decide.
        masks_left: Proposed masks left after each rule (`shard.MasksLeft`). `emptied`: images by the rule that took the
            last one. `notes`: images by the note of their row.
        header_sha256: `sha256` of the run's header when it was committed, which is that of the last extension of the
            plan.
        source: Where SOURCE was when this generation was computed (`--moved-from`); None where the header says.
    """

    shard: int = Field(ge=0)
    generation: int = Field(ge=0)
    parts: dict[str, PartRecord]
    counts: ShardCounts
    seconds: dict[str, float] = Field(default_factory=dict)
    attempts: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    degraded: dict[str, int | str] = Field(default_factory=dict)
    mixed: tuple[str, ...] = ()
    long_texts: _Rare = 0
    decisions: _Rare = 0
    wide_decisions: _Rare = 0
    masks_left: _RareCounts = Field(default_factory=dict)
    emptied: _RareCounts = Field(default_factory=dict)
    notes: _RareCounts = Field(default_factory=dict)
    header_sha256: Sha256 | None = None
    source: str | None = Field(default=None, exclude_if=lambda source: source is None)

    @property
    def num_repeats(self) -> int:
        """How many times a pool's work on the shard was done again."""
        return sum(count - 1 for count in self.attempts.values())

    @model_validator(mode="after")
    def _names_every_table(self) -> Self:
        if set(self.parts) != set(SCHEMAS):
            raise ValueError(f"a receipt names one part of each of {sorted(SCHEMAS)}, got {sorted(self.parts)}")
        return self


def is_header(data: bytes) -> bool:
    """Return whether a file's bytes are the header of a run, of any version."""
    try:
        tree = parse_json(data)
    except ValueError:
        return False
    return isinstance(tree, dict) and {"version", "plan_parts", "identity"} <= tree.keys()


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
