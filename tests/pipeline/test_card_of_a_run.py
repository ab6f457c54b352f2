"""`auto` of memory and precision: a card decides as a run begins, its header says so, and later cards do as it says."""

from contextlib import nullcontext
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from pseudoris.cli.summaries import plan_view
from pseudoris.files.location import RunLocation
from pseudoris.pipeline import identity, run_plan, sample_estimate
from pseudoris.pipeline.annotation import dry_run
from pseudoris.pipeline.cluster import lone_node
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.card_settings import SLOTS
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.planned_run import plan_run
from pseudoris.workers.captions import static_proof
from pseudoris.workers.captions.static_engine import num_slots
from pseudoris.workers.stages import DECODER
from tests.builders.images import png
from tests.builders.seals import forge_header
from tests.store.builders import commit

GIB = 2**30
AUTO = ["masks.points_per_batch=auto", "captions.cache_bytes=auto", "captions.crops_together=auto"]
ON_GPU = ["compute.device=cuda", "placement.fused.num_gpus=1", "compute.precision=auto", *AUTO]
H100 = ("NVIDIA H100", 79.1, (9, 0))
T4 = ("Tesla T4", 14.6, (7, 5))
MIXED = "placement.allow_mixed=true"


@pytest.fixture
def session(monkeypatch, tmp_path):
    """Return what plans a session on a card, with a committed shard after it, and gives plan and work."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    node = lone_node() | {"GPU": 1.0, "object_store_memory": 2.0**30}
    monkeypatch.setattr(run_plan, "connected", lambda *_: nullcontext(False))
    monkeypatch.setattr(run_plan, "node_resources", lambda: [node])
    monkeypatch.setattr(identity, "on_model_node", lambda config, measure: measure())
    monkeypatch.setattr(identity, "joins_cluster", lambda address: False)
    monkeypatch.setattr(identity, "has_gpu_files", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(static_proof, "fault_of_fixed_shapes", lambda *_, is_short: "")

    def planned(card, *words, is_committed=True):
        name, gib, capability = card
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)
        # What is free changes nothing.
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (GIB, int(gib * GIB)))
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
        config, out = load_config("tiny", assignments=[*ON_GPU, *words]), str(tmp_path / "out")
        with run_plan.opened(str(tmp_path / "in"), out, config, RunOptions()).placed() as plan:
            plan.check_identity()
            with RunLock.held(plan.location) as lock:
                begun = plan_run(plan.location, replace(plan.request(), lock=lock), plan.items)
            if is_committed:
                commit(plan.location, begun.header, 0)
            return plan, plan.job(begun, {})

    planned.location = RunLocation.open(str(tmp_path / "out"))
    return planned


def chosen(config):
    return (
        config.masks.points_per_batch,
        config.captions.cache_bytes // GIB,
        config.captions.crops_together,
        config.compute.precision,
    )


def test_a_card_decides_by_kind_and_total_memory_and_plan_header_and_workers_have_it(session):
    plan, job = session(H100)
    header = require_header(session.location)
    assert chosen(job.config) == chosen(header.config) == chosen(plan.config) == (64, 16, 1, "bfloat16")
    assert header.identity.method["compute"]["precision"] == "bfloat16"
    assert plan.by_card == (
        f"masks.points_per_batch=64, captions.cache_bytes={16 * GIB}, captions.crops_together=1, "
        "compute.precision=bfloat16"
    )


def test_a_dry_run_tells_what_a_new_run_takes_from_the_card(session, tmp_path):
    session(T4, is_committed=False)
    config = load_config("tiny", assignments=ON_GPU)
    planned = dry_run(str(tmp_path / "in"), str(tmp_path / "another"), config)
    console = Console(width=400, record=True, file=StringIO())
    console.print(plan_view(planned))
    line = "by the card masks.points_per_batch=8, captions.cache_bytes=2147483648, captions.crops_together=1, compute."
    text = " ".join(console.export_text().split())
    assert line in text
    assert "captions by tree: fixed shapes are off on this card: Triton cannot compile for it" in text


def test_an_estimate_computes_with_what_a_run_takes_from_the_card(session, tmp_path, monkeypatch):
    session(H100, is_committed=False)

    def computed(job, *_):
        assert chosen(job.config) == chosen(job.header.config) == (64, 16, 1, "bfloat16")
        raise ConfigError("computed with these")

    monkeypatch.setattr(sample_estimate, "run_shards", computed)
    config = load_config("tiny", assignments=ON_GPU)
    with pytest.raises(ConfigError, match="computed with these"):
        sample_estimate.estimate(str(tmp_path / "in"), config, size=1, scratch=str(tmp_path))


def test_an_older_card_computes_in_float32(session):
    _, job = session(T4)
    assert chosen(job.config) == (8, 2, 1, "float32")


def test_an_explicit_value_wins(session):
    words = ["masks.points_per_batch=48", f"captions.cache_bytes={3 * GIB}", "captions.decoder=static"]
    plan, job = session(T4, *words, "compute.precision=float16")
    # In fixed shapes no neighbour changes a bit, so images go together.
    assert chosen(job.config) == (48, 3, 640, "float16")
    assert plan.by_card == "captions.crops_together=640"


def test_a_new_run_in_fixed_shapes_names_the_slots_for_which_there_is_memory(session):
    _, job = session(T4, f"captions.cache_bytes={2**25}", "captions.decoder=static")
    header = require_header(session.location)
    few = num_slots(header.config.captions, header.config.compute)
    assert (header.identity.versions[SLOTS], job.config.captions.slots) == (str(few), few)
    assert 64 <= few < num_slots(load_config("tiny").captions, header.config.compute)
    # They stay what they were, whatever memory there is.
    _, job = session(T4, f"captions.cache_bytes={3 * GIB}", is_committed=False)
    assert job.config.captions.slots == few


def test_a_new_run_that_names_fixed_shapes_is_refused_where_they_fail_also_mixed(session, monkeypatch):
    monkeypatch.setattr(static_proof, "fault_of_fixed_shapes", lambda *_, is_short: "the norm differs")
    with pytest.raises(ConfigError, match=r"captions\.decoder=static: .* the norm differs"):
        session(H100, "captions.decoder=static", "compute.seed=7", MIXED)


def test_another_card_needs_allow_mixed_and_takes_the_values_of_the_header(session):
    session(H100)
    with pytest.raises(
        ConfigError, match=r"device_kind: 'NVIDIA H100' in the run, 'Tesla T4' now\n.*allow-mixed"
    ) as told:
        session(T4, is_committed=False)
    assert "compute.precision" not in str(told.value)
    plan, job = session(T4, MIXED, is_committed=False)
    assert chosen(job.config) == (64, 16, 1, "bfloat16")
    assert plan.by_card == ""


def test_the_same_card_goes_on_also_where_its_driver_reports_less_memory(session):
    session(H100)
    assert chosen(session(("NVIDIA H100", 69.0, (9, 0)), is_committed=False)[1].config)[:2] == (64, 16)


def test_another_value_than_that_of_the_header_is_another_run(session):
    session(H100)
    with pytest.raises(ConfigError, match=r"captions.cache_bytes: 17179869184 in the run, 1073741824 now"):
        session(H100, f"captions.cache_bytes={GIB}", MIXED)


def test_a_run_without_results_on_another_card_is_planned_anew_by_the_card_that_is_here(session):
    session(H100, is_committed=False)
    _, job = session(T4)
    assert chosen(job.config) == chosen(require_header(session.location).config) == (8, 2, 1, "float32")


def test_a_run_without_results_in_fixed_shapes_is_planned_anew_by_the_tree_where_they_fail(session, monkeypatch):
    words = ["masks.points_per_batch=64", f"captions.cache_bytes={2 * GIB}", "captions.crops_together=1"]
    words += ["compute.precision=float32", "compute.seed=8"]
    session(H100, *words, is_committed=False)
    begun = {DECODER: "static", SLOTS: "512"}
    forge_header(session.location, lambda tree: tree["identity"]["versions"].update(begun))
    monkeypatch.setattr(static_proof, "fault_of_fixed_shapes", lambda *_, is_short: "the norm differs")
    _, job = session(H100, *words)
    assert job.config.captions.decoder == require_header(session.location).identity.versions[DECODER] == "tree"


@pytest.mark.parametrize(("version", "revision"), [("0.5.0", "absent"), ("0.6.0", "2")])
def test_a_run_on_a_gpu_of_an_earlier_version_is_refused_and_told_to_be_mixed_with_what_was_its_value_then(
    session, version, revision
):
    words = ["masks.points_per_batch=64", f"captions.cache_bytes={2 * GIB}", "captions.crops_together=1"]
    session(H100, *words, "compute.precision=float32")

    def edit(tree):
        versions = tree["identity"]["versions"]
        del versions["pseudoris.decoder"], versions["pseudoris.cuda"]
        versions |= {"pseudoris": version} | ({} if revision == "absent" else {"pseudoris.cuda": revision})

    forge_header(session.location, edit)
    named = rf"versions\.pseudoris\.cuda: '{revision}' in the run, '3' now\n(.*\n)*.*--allow-mixed"
    with pytest.raises(ConfigError, match=named) as told:
        session(H100, is_committed=False)
    assert "captions.cache_bytes" not in str(told.value)
    _, job = session(H100, MIXED, is_committed=False)
    assert chosen(job.config) == (64, 2, 1, "float32")


@pytest.mark.parametrize(
    ("preset", "words", "precision"),
    [
        ("base", [], "float32"),
        ("base", ["captions.engine=vlm", "captions.architecture=null"], "float32"),
        ("paper", [], "float32"),
        ("open", [], "bfloat16"),
        ("open-composed", ["captions.engine=coca", "captions.architecture=coca_ViT-L-14"], "bfloat16"),
    ],
)
def test_on_a_cpu_auto_is_what_0_6_0_had(preset, words, precision):
    words = ["compute.device=cpu", "placement.fused.num_gpus=0", *words]
    on_cpu = load_config(preset, assignments=words)
    assert chosen(on_cpu) == (64, 2, 1, precision)
    then = ["masks.points_per_batch=64", f"captions.cache_bytes={2 * GIB}", "captions.crops_together=1"]
    assert on_cpu == load_config(preset, assignments=[*words, *then, f"compute.precision={precision}"])


@pytest.mark.parametrize("preset", ["base", "base-composed", "open", "open-composed", "paper"])
def test_presets_for_photographs_leave_memory_and_all_but_paper_the_precision_to_the_card(preset):
    config = load_config(preset)
    keys = [each.partition("=")[0] for each in config.decided(config).split(", ")]
    memory = ["masks.points_per_batch", "captions.cache_bytes", "captions.crops_together"]
    assert keys == (memory if preset == "paper" else [*memory, "compute.precision"])
