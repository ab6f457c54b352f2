"""`captions.decoder=auto` on a GPU: a run keeps what was chosen as it began, and another choice is told and mixed."""

from contextlib import nullcontext

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.pipeline import run_plan
from pseudoris.pipeline.cluster import lone_node
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.workers.stages import DECODER
from tests.builders.images import png
from tests.store.builders import commit, make_identity

ON_GPU = ["compute.device=cuda", "placement.fused.num_gpus=1", "compute.precision=bfloat16"]
ASKED = {"pseudoris.cuda": "2", "triton": "3.5.1"}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    return str(tmp_path / "in")


@pytest.fixture
def session(monkeypatch, source, tmp_path):
    """Return what places a session on a card that `auto` gives `card`, of a run whose header names `begun`."""

    def measure(config, stored=None):
        chosen = "tree" if config.captions.decoder == "auto" else config.captions.decoder
        return identity(config, {DECODER: chosen}), config, "fixed shapes are off"

    def identity(config, versions):
        update = {"method": config.method(), "device_kind": "NVIDIA H200", "versions": ASKED | versions}
        return make_identity().model_copy(update=update)

    monkeypatch.setattr(run_plan, "connected", lambda *_: nullcontext(False))
    monkeypatch.setattr(
        run_plan, "node_resources", lambda: [lone_node() | {"GPU": 1.0, "object_store_memory": 2.0**30}]
    )
    monkeypatch.setattr(run_plan, "identity_before_ray", lambda config, stored: None)
    monkeypatch.setattr(run_plan, "identity_on_cluster", measure)
    out = str(tmp_path / "out")

    def placed(begun, *words, setting="auto"):
        location, began = (
            RunLocation.open(out),
            load_config("tiny", assignments=[*ON_GPU, f"captions.decoder={setting}"]),
        )
        request = RunRequest("annotate", source, identity(began, begun), began)
        planned = plan_run(location, request, open_source(source, began.source).list)
        # A run without a receipt would give way to another one.
        commit(location, planned.header, 0)
        config = load_config("tiny", assignments=[*ON_GPU, *words])
        with run_plan.opened(source, out, config, RunOptions()).placed() as plan:
            plan.check_identity()
            return plan, plan.job(planned, {})

    return placed


def test_a_run_goes_on_with_the_decoder_that_it_began_with(session):
    plan, job = session({DECODER: "static"})
    assert plan.identity.versions[DECODER] == job.config.captions.decoder == "static"
    assert "decoder" not in plan.identity.method["captions"]


def test_a_run_of_0_6_0_names_none_and_is_not_mixed_unasked(session):
    with pytest.raises(
        ConfigError, match=r"versions\.pseudoris\.decoder: 'absent' in the run, 'tree' now\n.*allow-mix"
    ):
        session({})


def test_with_allow_mixed_it_goes_on_with_the_decoder_of_the_card(session):
    _, job = session({}, "placement.allow_mixed=true")
    assert job.config.captions.decoder == "tree"


def test_a_run_that_names_its_decoder_goes_on_where_none_is_named(session):
    _, job = session({DECODER: "static"}, setting="static")
    assert job.config.captions.decoder == "static"


def test_another_decoder_by_name_is_another_run(session):
    with pytest.raises(ConfigError, match=r"captions\.decoder: 'absent' in the run, 'static' now"):
        session({DECODER: "static"}, "captions.decoder=static", "placement.allow_mixed=true")
