"""Says what a run would do, before it does it: the one plan of `annotate`, of its dry run and of an estimate.

Called by `annotation` and `sample_estimate`. `opened` refuses before Ray starts what can be refused without it, in
seconds unless weights must be fetched or hashed; a dry run fetches none. `RunPlan.placed` adds what only the nodes
know. Nothing is written to OUT.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.cluster import connected, lone_node, node_resources
from pseudoris.pipeline.fan_out import list_on_cluster
from pseudoris.pipeline.identity import cpu_measured_here, identity_before_ray, identity_on_cluster, unfetched
from pseudoris.pipeline.resources import check_object_store, plan_actors, with_readers
from pseudoris.pipeline.run_contract import RunOptions, check_options
from pseudoris.pipeline.shard_tasks import Job
from pseudoris.pipeline.stored_masks import StoredMasks, masks_parent, with_masks_of
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import writable
from pseudoris.schemas.card_settings import AUTO, SLOTS, decoder_choices
from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.schemas.config_layers import as_begun, refuse_second_opinion
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.runs.extension import ExtensionTally, new_entries
from pseudoris.store.runs.garbage import refuse_unexpected_files
from pseudoris.store.runs.header import check_identity, is_same_source, moved_option, planned_source, refuse_queries
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.moved_source import checked_move, moved_entries
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.pending_work import OnEvent, Step, ignore
from pseudoris.store.runs.plan import PlanTally, assign_shards, iter_plan
from pseudoris.store.runs.planned_run import PlannedRun, RunRequest, may_give_way
from pseudoris.store.runs.receipts import Totals
from pseudoris.store.runs.stored_exclusions import ExcludedItems, check_exclusions
from pseudoris.store.sources import Source, SourceItem, open_source
from pseudoris.store.sources.source import absolute_source
from pseudoris.store.tables.judged_expressions import check_scored
from pseudoris.workers.stages import DECODER, STAGE_PROPOSE, STAGES, decoder_words


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a session would do: with what, on which nodes, and which images.

    Attributes:
        source: SOURCE.
        location: OUT.
        config: Of this session; with a `parent`, its settings of masks, SOURCE, images and shards.
        options: Of this session.
        header: Of the run in OUT; None if there is none, or if it gives way.
        may_be_anew: Whether the run of `header` gives way to one that the card decides otherwise.
        parent: The run that the masks are taken from; None if they are proposed.
        stored: By stage, digests that are not measured: of a parent, or not known before weights are fetched.
        identity: Of the machines that compute. Before `placed` it lacks a CPU's kind, and is None for cluster or GPU.
        actors: By pool, how many hold models; empty before `placed`.
        may_grow: Whether nodes may join the cluster.
        has_ray: Whether this process is connected to Ray.
        slower_decoder: Why `captions.decoder=auto` takes the slower one on the GPU, a sentence; empty before `placed`.
        by_card: What a new run takes from the card, `RunConfig.decided`; empty before `placed`.
    """

    source: Source
    location: RunLocation
    config: RunConfig
    options: RunOptions
    header: RunHeader | None
    parent: Parent | None
    stored: Mapping[str, str]
    identity: Identity | None = None
    actors: Mapping[str, int] = field(default_factory=dict)
    may_grow: bool = False
    has_ray: bool = False
    slower_decoder: str = ""
    by_card: str = ""
    may_be_anew: bool = False

    @property
    def needs_ray(self) -> bool:
        """Whether only Ray can tell the rest: a GPU is seen by its processes alone, and tasks list a bucket."""
        has_gpus = any(pool.num_gpus for pool in self.config.model_pools().values())
        return self.identity is None or self.source.root.store != "disk" or has_gpus

    @property
    def decoder(self) -> str:
        """What decodes captions, and why it is the slower one: `decoder_words`; before `placed` no GPU has chosen."""
        if self.identity is None:
            return decoder_words(self._asked)
        return decoder_words(self.config, self.identity.versions.get(DECODER, ""), self.slower_decoder)

    @property
    def _asked(self) -> RunConfig:
        """The settings with the decoder that the run in OUT began with, unless it gives way."""
        begun = None if self.header is None or self.may_be_anew else self.header.identity
        return _with_decoder_of(begun, self.config)

    def measuring(self) -> AbstractContextManager[Callable[[], str]]:
        """Begin to measure the kind of this CPU, for `placed`; give nothing if a GPU or a cluster computes."""
        has_kind = self.identity is None or self.identity.device_kind
        return nullcontext(str) if has_kind else cpu_measured_here(self.config.compute)

    @contextmanager
    def placed(
        self, on_event: OnEvent = ignore, cpu_kind: Callable[[], str] = str, *, with_ray: bool = True
    ) -> Iterator[RunPlan]:
        """Connect to Ray for the block; yield the plan with its actors and its identity.

        Without Ray, this machine counts as the only node. `cpu_kind` is what `measuring` gave.

        Raises:
            ConfigError: The placement never fits, or weights are missing on a node.
        """
        placement = self.config.placement
        with connected(placement.address, placement.start_timeout_s) if with_ray else nullcontext(False) as may_grow:
            actors = plan_actors(node_resources() if with_ray else [lone_node()], self.config)
            on_event(Step(", captions by ".join(filter(None, ("checking the device", self.decoder)))))
            # Missing weights on a node are reported before the listing, which may take an hour.
            yield replace(self._measured(cpu_kind), actors=actors, may_grow=may_grow, has_ray=with_ray)

    def _measured(self, cpu_kind: Callable[[], str]) -> RunPlan:
        """Return the plan with the identity on a node; one measured here gets `cpu_kind`, unless that is empty."""
        if self.identity is not None:
            kind = cpu_kind() or self.identity.device_kind
            return replace(self, identity=self.identity.model_copy(update={"device_kind": kind}))
        identity, decided, slower = identity_on_cluster(self._asked, self.stored)
        # Decoder and slots that were chosen as the run began stand among its versions, and are no settings of it.
        own = {"decoder": self.config.captions.decoder, "slots": self.config.captions.slots}
        config = decided.model_copy(update={"captions": decided.captions.model_copy(update=own)})
        identity = identity.model_copy(update={"method": config.method()})
        by_card = config.decided(self.config)
        return replace(self, config=config, identity=identity, slower_decoder=slower, by_card=by_card)

    def items(self) -> Iterator[SourceItem]:
        """Yield the images of SOURCE in the order of their keys; tasks index them if there is Ray."""
        return list_on_cluster(self.source, self.config.placement.read) if self.has_ray else self.source.list()

    def request(self) -> RunRequest:
        """Return what is planned for this session, or continued; ValueError before the identity is known."""
        if self.identity is None:
            raise ValueError("the identity is not known before the plan is placed")
        # Only what is pending needs a device, so before `placed` that of the run is assumed.
        kind = self.identity.device_kind or ("" if self.header is None else self.header.identity.device_kind)
        identity = self.identity.model_copy(update={"device_kind": kind})
        options, moved_from = self.options, self.options.moved_from
        place, moved = moved_from or self.source.name, None if moved_from is None else self.source
        request = RunRequest("annotate", place, identity, self.config, limit=options.limit, moved=moved)
        return replace(request, exclusions=options.exclusions, is_extension=options.is_extension)

    def job(self, planned: PlannedRun, generations: Mapping[int, int]) -> Job:
        """Return the work of the `planned` run for its workers. `generations` are those that `Job` starts from.

        Raises:
            ConfigError: The shards in flight do not fit into the object store.
        """
        nodes, header = node_resources(), planned.worked or planned.header
        config = with_readers(nodes, self.config, self.actors, header, may_grow=self.may_grow)
        config = _with_decoder_of(self.identity, config, begun=header.identity)
        check_object_store(nodes, config, self.actors, header.max_shard_bytes)
        asks = config.composing is not None and config.composing.has_too_small
        masks = None
        if self.parent is not None:
            masks = StoredMasks.pinned(self.parent, planned.parent, has_too_small=asks)
        job = Job(self.source.name, self.location, header, config, may_grow=self.may_grow, masks=masks)
        job = replace(job, moved_to=None if self.options.moved_from is None else self.source.name)
        return replace(job, generations=generations, is_retry=self.options.is_retry, reasons=self.options.reasons)

    def check_identity(self) -> list[str]:
        """Accept the identity, device included, for the run in OUT, or raise ConfigError; return what is mixed."""
        if self.header is None or may_give_way(self.location, self.header, self.options.exclusions):
            return []
        identity = self.request().identity
        return self._check(self.header, identity, identity.device_kind)

    def counted(self) -> tuple[PlanTally, ExtensionTally | None, ExcludedItems]:
        """Count what a session would plan or follow; the first tally includes the second, that of an extension.

        Counted are the plan of the parent, else that in OUT, else one of the listed images. The last value says what of
        a new plan is left out.
        """
        excluded, tally = ExcludedItems(self.options.exclusions), PlanTally()
        location, header, has_moved = self.location, self.header, self.options.moved_from is not None
        if has_moved and header is not None:
            for _ in moved_entries(location, header, self.items(), self.source, self.config):
                pass
        if self.parent is not None:
            location, header = self.parent.location, self.parent.header
        if header is None:
            entries = assign_shards(excluded.kept(self.items()), self.config.shards, tally=tally)
            for _ in itertools.islice(entries, self.options.limit):
                pass
            excluded.check_left(tally.num_images)
            return tally, None, excluded
        size_bytes = sum(entry.size_bytes or 0 for _, entries in iter_plan(location, header) for entry in entries)
        tally = PlanTally(header.num_images, header.num_shards, header.num_repeated, size_bytes)
        if not self.options.is_extension:
            return tally, None, excluded
        found = ExtensionTally()
        for _ in new_entries(location, header, self.items(), tally=found, limit=self.options.limit):
            pass
        if has_moved:
            # Every one was found, and another time changes none.
            found.num_changed = 0
        tally.num_images += found.num_images
        tally.num_shards += found.num_shards
        tally.size_bytes += found.size_bytes
        return tally, found, excluded

    def measured(self) -> RunPlan:
        """Return the plan with what this machine can tell of its identity before Ray, accepted for the run in OUT.

        In a dry run, weights that a run would fetch may be missing: their stores are asked whether they exist.

        Raises:
            ConfigError: Weights or packages are missing, or the run in OUT has others, or other settings.
        """
        header, stored = self.header, dict(self.stored)
        if header is not None and _weights(self.config) != _weights(header.config):
            # If the settings name other weights, the run is refused before they are read, because they may be missing.
            self._check(header, header.identity, header.identity.device_kind)
        if self.options.is_dry:
            missing = unfetched(self.config, stored)
            stored |= {name: header.identity.weights.get(name, "") if header else "not fetched" for name in missing}
        here = identity_before_ray(self.config, stored, needs_gpu=not self.options.is_dry)
        if header is not None:
            # Only a process of the cluster knows the device, so the recorded device is assumed here.
            self._check(header, here or header.identity, header.identity.device_kind)
        return replace(self, stored=stored, identity=here)

    def _check(self, header: RunHeader, now: Identity, device_kind: str) -> list[str]:
        """Accept the settings of this session, and what else `now` has, for the run of `header`."""
        now = now.model_copy(update={"method": self.config.method(), "device_kind": device_kind})
        preset, allow_mixed = self.config.preset, self.config.placement.allow_mixed
        try:
            place = self.options.moved_from or self.source.name
            return check_identity(header, now, place, preset=preset, allow_mixed=allow_mixed)
        except ConfigError as error:
            if not Totals(cached_receipts(self.location)).sum().is_fruitless:
                raise
            remedy = f"That run annotated no image: delete {self.location.root} to begin anew there"
            raise ConfigError(f"{error}\n{remedy}") from error


def opened(source: str, out: str, config: RunConfig, options: RunOptions, on_event: OnEvent = ignore) -> RunPlan:
    """Open SOURCE and OUT for `annotate`, its dry run or an estimate, and return the plan as far as it is known.

    A run in OUT that does not fit is refused, unless it has no receipt and no driver: another may be planned there.
    """
    location = RunLocation.open(writable(out), config.source.endpoint_url, config.placement.storage)
    on_event(Step("opening SOURCE and OUT"))
    header = check_options(location, options, is_repair=config.placement.repair)
    is_old = bool(options.modes) or config.placement.repair
    gives_way = header is not None and not is_old and may_give_way(location, header, options.exclusions)
    refuse_second_opinion(config if header is None or gives_way else header.config)
    # What was `auto` as a run began is what it has, whatever it would be on this card. One without results that was
    # begun on another card gives way.
    held = {} if header is None or gives_way else header.config.model_dump()
    try:
        begun = config if header is None or gives_way else as_begun(config, header.config)
        plan = _opened(source, location, begun.with_chosen(held), options, header, on_event)
        return replace(plan, may_be_anew=gives_way)
    except ConfigError:
        if not gives_way:
            raise
    return _opened(source, location, config, options, None, on_event)


def _opened(
    source: str, out: RunLocation, config: RunConfig, options: RunOptions, header: RunHeader | None, on_event: OnEvent
) -> RunPlan:
    if header is not None:
        check_exclusions(header, options.exclusions)
    check_scored(config, config.filtering.keep, out.root)
    if header is None:
        refuse_unexpected_files(out)
        refuse_queries(config, source)
    elif options.moved_from is not None:
        options = replace(options, moved_from=checked_move(header, options.moved_from))
    elif not options.is_extension:
        source = planned_source(header, source)
    recorded, limits = None if header is None else header.source, config.placement.storage
    try:
        listing = open_source(source, config.source, exclude=out.root, limits=limits, recorded=recorded)
    except ConfigError as error:
        if header is None or options.moved_from is not None or not is_same_source(header, absolute_source(source)):
            raise
        told = f"If its images have moved, give their new place as SOURCE, and add {moved_option(header)}"
        raise ConfigError(f"{error}\n{told}") from error
    on_event(Step("checking weights and packages"))
    parent = masks_parent(config, out, header, options)
    if parent is not None:
        config = with_masks_of(parent, config, options.moved_from or listing.name)
    elif header is None:
        listing.check_not_empty()
    stored = {} if parent is None else {STAGE_PROPOSE: parent.header.identity.weights[STAGE_PROPOSE]}
    return RunPlan(listing, out, config, options, header, parent, stored).measured()


def _with_decoder_of(identity: Identity | None, config: RunConfig, *, begun: Identity | None = None) -> RunConfig:
    """Return the config with decoder and slots of a run; with --allow-mixed each card chooses instead of `static`.

    If the run has `begun` in fixed shapes and goes on by the tree, that captions each image alone, as elsewhere.
    """
    captions, versions = config.captions, {} if identity is None else identity.versions
    may_choose = versions.get(DECODER) == "static" and config.placement.allow_mixed
    decoder = AUTO if may_choose else versions.get(DECODER, captions.decoder)
    slots = captions.slots or versions.get(SLOTS)
    update = {"decoder": decoder, "slots": None if slots is None else int(slots)}
    if begun is not None and begun.versions.get(DECODER) == "static" and decoder == "tree":
        update |= decoder_choices(decoder)["captions"]
    return config.model_copy(update={"captions": captions.model_copy(update=update)})


def _weights(config: RunConfig) -> list[WeightsConfig]:
    return [stage.settings(config).weights for stage in STAGES]
