"""Decoder and slots of a run on a GPU: it keeps what it began with, and another choice is told and mixed."""

import itertools
from contextlib import nullcontext

import pytest

from pseudoris.cli.doctor import run_checks
from pseudoris.files.location import RunLocation
from pseudoris.pipeline import run_plan
from pseudoris.pipeline.cluster import lone_node
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.card_settings import SLOTS
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.pending_work import Step, ignore
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.workers.captions import decoder_choice, static_proof
from pseudoris.workers.stages import DECODER, device_versions, gpu_decoder
from tests.builders.images import png
from tests.store.builders import commit, make_identity

ON_GPU = ["compute.device=cuda", "placement.fused.num_gpus=1", "compute.precision=bfloat16"]
SEEDS = itertools.count()
OFF = "attention by Triton differs from torch by 0.3 at width 64 in bfloat16"
ASKED = {"pseudoris.cuda": "2", "triton": "3.5.1"}
# By the settings there are 1,152 slots.
FIXED = {DECODER: "static", SLOTS: "512"}
MIXED_640 = ("placement.allow_mixed=true", "captions.crops_together=640")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    return str(tmp_path / "in")


@pytest.fixture
def session(monkeypatch, source, tmp_path):
    """Return what places a session, on a card of which `fault` is told, of a run whose header names `begun`."""
    faults = [""]
    # A process proves a configuration once, so each test has its own.
    words_of_test = [*ON_GPU, f"compute.seed={next(SEEDS)}"]

    def measure(config, stored=None):
        chosen, why = gpu_decoder(config, is_proven=True)
        config = config.with_chosen({"captions": {"decoder": chosen}})
        versions = device_versions(config)
        return identity(config, {name: versions[name] for name in (DECODER, SLOTS) if name in versions}), config, why

    def identity(config, versions):
        update = {"method": config.method(), "device_kind": "NVIDIA H200", "versions": ASKED | versions}
        return make_identity().model_copy(update=update)

    monkeypatch.setattr(run_plan, "connected", lambda *_: nullcontext(False))
    monkeypatch.setattr(
        run_plan, "node_resources", lambda: [lone_node() | {"GPU": 1.0, "object_store_memory": 2.0**30}]
    )
    monkeypatch.setattr(run_plan, "identity_before_ray", lambda config, stored, **_: None)
    monkeypatch.setattr(run_plan, "identity_on_cluster", measure)
    monkeypatch.setattr(decoder_choice, "triton_version", lambda: ("3.5.1", ""))
    monkeypatch.setattr(static_proof, "fault_of_fixed_shapes", lambda *_, is_short: faults[0])
    out = str(tmp_path / "out")

    def placed(begun, *words, setting="auto", fault="", on_event=ignore):
        faults[0] = fault
        location, began = (
            RunLocation.open(out),
            load_config("tiny", assignments=[*words_of_test, f"captions.decoder={setting}"]),
        )
        request = RunRequest("annotate", source, identity(began, begun), began)
        planned = plan_run(location, request, open_source(source, began.source).list)
        # A run without a receipt would give way to another one.
        commit(location, planned.header, 0)
        config = load_config("tiny", assignments=[*words_of_test, *words])
        with run_plan.opened(source, out, config, RunOptions()).placed(on_event) as plan:
            plan.check_identity()
            return plan, plan.job(planned, {})

    return placed


def test_a_plan_that_knows_no_card_says_that_the_gpu_of_the_cluster_chooses_as_doctor_does(session, source, tmp_path):
    config = load_config("tiny", assignments=ON_GPU)
    (doctor,) = (each.detail for each in run_checks(config, source=None, out=None) if each.name == "captions by")
    assert doctor == "auto (by the GPU of the cluster)"
    found = run_plan.opened(source, str(tmp_path / "new"), config, RunOptions())
    assert found.decoder == doctor
    events = []
    with found.placed(events.append) as placed:
        assert placed.decoder == "static"
    assert events == [Step(f"checking the device, captions by {doctor}")]


def test_a_plan_names_the_decoder_that_a_run_began_with_before_it_knows_the_card(session):
    events = []
    plan, _ = session({DECODER: "tree"}, on_event=events.append)
    assert events == [Step("checking the device, captions by tree")]
    assert plan.decoder == "tree"


def test_a_run_goes_on_with_the_decoder_and_the_slots_that_it_began_with(session):
    plan, job = session(FIXED)
    assert plan.identity.versions[DECODER] == job.config.captions.decoder == "static"
    assert (plan.identity.versions[SLOTS], job.config.captions.slots) == ("512", 512)
    assert not {"decoder", "slots"} & plan.identity.method["captions"].keys()


def test_other_bounds_of_memory_are_no_other_run_of_fixed_shapes(session):
    _, job = session(FIXED, f"captions.cache_bytes={2**25}", "captions.crops_together=9")
    assert (job.config.captions.slots, job.config.captions.cache_bytes, job.config.captions.crops_together) == (
        512,
        2**25,
        9,
    )


@pytest.mark.parametrize("word", [f"captions.cache_bytes={2**25}", "captions.crops_together=9"])
def test_of_the_tree_they_are_another_run(session, word):
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        session({DECODER: "tree"}, word, "placement.allow_mixed=true")


def test_another_number_of_slots_is_another_run_or_mixed(session):
    with pytest.raises(ConfigError, match=r"versions\.pseudoris\.slots: '512' in the run, '256' now\n.*allow-mix"):
        session(FIXED, "captions.slots=256")
    _, job = session(FIXED, "captions.slots=256", "placement.allow_mixed=true")
    assert job.config.captions.slots == 256


def test_a_run_of_0_6_0_names_none_and_is_not_mixed_unasked(session):
    with pytest.raises(
        ConfigError, match=r"versions\.pseudoris\.decoder: 'absent' in the run, 'tree' now\n.*allow-mix"
    ):
        session({}, fault=OFF)


def test_with_allow_mixed_it_goes_on_with_the_decoder_of_the_card(session):
    _, job = session({}, "placement.allow_mixed=true", fault=OFF)
    assert job.config.captions.decoder == "tree"


def test_on_a_card_that_fails_the_proof_of_fixed_shapes_a_run_of_them_is_refused(session):
    with pytest.raises(ConfigError, match=rf"captions\.decoder=static: fixed shapes .*: {OFF}\. .*--allow-mixed"):
        session(FIXED, fault=OFF)


@pytest.mark.parametrize("setting", ["auto", "static"])
def test_with_allow_mixed_the_tree_continues_it_there_also_if_it_names_fixed_shapes(session, setting):
    plan, job = session(FIXED, "placement.allow_mixed=true", setting=setting, fault=OFF)
    assert plan.slower_decoder == f"fixed shapes are off on this card: {OFF}"
    assert plan.identity.versions[DECODER] == job.config.captions.decoder == "tree"


def test_where_the_tree_continues_fixed_shapes_it_captions_each_image_alone(session):
    plan, job = session(FIXED, *MIXED_640, fault=OFF)
    assert (plan.config.captions.crops_together, job.config.captions.crops_together) == (640, 1)


def test_where_fixed_shapes_continue_they_keep_their_crops_together(session):
    assert session(FIXED, *MIXED_640)[1].config.captions.crops_together == 640


def test_with_allow_mixed_each_process_chooses_for_itself_where_the_first_card_passes(session):
    plan, job = session(FIXED, "placement.allow_mixed=true")
    assert (plan.identity.versions[DECODER], job.config.captions.decoder) == ("static", "auto")


def test_with_allow_mixed_a_run_of_the_tree_goes_on_by_the_tree_also_where_the_proof_holds(session):
    _, job = session({DECODER: "tree"}, "placement.allow_mixed=true")
    assert job.config.captions.decoder == "tree"


def test_a_run_that_names_its_decoder_goes_on_where_none_is_named(session):
    _, job = session(FIXED, setting="static")
    assert job.config.captions.decoder == "static"


def test_another_decoder_by_name_is_another_run(session):
    with pytest.raises(ConfigError, match=r"captions\.decoder: 'auto' in the run, 'static' now"):
        session(FIXED, "captions.decoder=static", "placement.allow_mixed=true")
