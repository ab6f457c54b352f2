"""What an identity is made of."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from pipeline.identity import PACKAGES, STAGES, device_differs, measure_identity
from schemas.errors import ConfigError
from schemas.ids import sha256_hex
from tests.builders.runs import stub_config


@pytest.fixture(scope="module")
def measured(stub_engines):
    return measure_identity(stub_config("masks.weights.uri=here"))


def test_it_holds_a_digest_of_every_stages_weights(measured):
    assert measured.weights.keys() == {"propose", "caption", "filter"}
    assert measured.weights["propose"] == sha256_hex(b"here")


def test_it_holds_the_versions_of_what_computes_and_of_the_plug_ins(measured):
    assert measured.versions.keys() == {*PACKAGES, "stub-engines"}
    assert measured.versions["torch"] == version("torch")
    assert measured.versions["stub-engines"] == "1.0"
    assert "absent" not in measured.versions.values()


def test_it_holds_the_whole_method_and_nothing_of_the_placement(measured):
    config = stub_config("masks.weights.uri=here")
    assert measured.method == config.method()
    assert "placement" not in measured.method


def test_two_measurements_are_equal_and_another_device_is_told(measured):
    config = stub_config("masks.weights.uri=here")
    assert measure_identity(config) == measured
    assert device_differs(measured, config) is None
    other = measured.model_copy(update={"device_kind": "NVIDIA A100"})
    assert "'NVIDIA A100' in the run" in device_differs(other, config)


def test_an_unknown_engine_is_refused(stub_engines):
    with pytest.raises(ConfigError, match=r"masks.engine='nope'.*known: .*stub"):
        measure_identity(stub_config("masks.engine=nope"))


def test_stages_come_in_the_order_of_the_work(stub_engines):
    assert [stage.name for stage in STAGES] == ["propose", "caption", "filter"]
    assert all(stage.build(stub_config()) is not None for stage in STAGES)
