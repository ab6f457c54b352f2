"""Rules that span fields state both values."""

import pytest
from pydantic import ValidationError

from pseudoris.schemas import config
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.uris import RECORDED


def test_settings_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValidationError, match=r"prior.kind=table needs prior.path"):
        config.PriorConfig(kind="table")
    with pytest.raises(ValidationError, match="num_beams 5 is not a multiple of num_groups 3"):
        config.BeamConfig(num_beams=5)


def test_cuda_without_gpus_for_a_model_pool_is_refused():
    tree = load_config("base").model_dump()
    tree["placement"]["fused"]["num_gpus"] = 0
    with pytest.raises(ValidationError, match=r"compute.device=cuda, but placement.fused.num_gpus=0"):
        config.RunConfig.model_validate(tree)


def test_the_method_leaves_out_placement_endpoint_payer_queries_and_preset():
    method = load_config("tiny").method()
    assert set(method) == {"source", "images", "masks", "captions", "filtering", "composing", "compute", "shards"}
    assert set(config.SourceConfig.model_fields) - set(method["source"]) == {
        "endpoint_url",
        "requester_pays",
        "allowed_query",
    }
    assert load_config("tiny", assignments=["source.requester_pays=true"]).method() == method


@pytest.mark.parametrize(
    "assignment", ["source.format=parquet", "source.bytes_columns=[jpeg]", "source.uri_root=/images"]
)
def test_what_decides_the_bytes_of_the_input_belongs_to_the_method(assignment):
    assert load_config("tiny", assignments=[assignment]).method() != load_config("tiny").method()


@pytest.mark.parametrize("root", ["images", "./images", "~/images", "file://images"])
def test_a_relative_root_of_uris_is_refused(root):
    with pytest.raises(ValidationError, match=f"uri_root '{root}' is relative: give an absolute path"):
        config.SourceConfig(uri_root=root)


@pytest.mark.parametrize(
    "assignment",
    [
        *("captions.max_length=1000000000", "filtering.batch_size=1000000000000", "masks.points_per_batch=1000000000"),
        *("shards.max_images=1000000000000", "compute.threads=1000000", "placement.fused.max_actors=1000000000"),
        *(
            "masks.points_per_side=100000",
            "placement.storage.patience_s=1000000000",
            "images.decoder_timeout_s=1000000000",
        ),
    ],
)
def test_a_number_beyond_what_any_machine_has_is_refused_with_what_is_allowed(assignment):
    key, _, value = assignment.partition("=")
    with pytest.raises(ConfigError, match=rf"{key}: Input should be less than or equal to [\d.]+ \(got {value[:3]}"):
        load_config("tiny", assignments=[assignment])


@pytest.mark.parametrize("section", ["masks", "captions", "filtering"])
def test_options_are_refused_of_an_engine_that_takes_none_and_read_in_a_run_that_has_them(section):
    with pytest.raises(ConfigError, match=rf"{section}\.options has sleep, but .* takes none: remove them"):
        load_config("tiny", assignments=[f"{section}.options.sleep=3"])
    tree = load_config("tiny").model_dump()
    tree[section]["options"] = {"sleep": 3}
    assert config.RunConfig.model_validate(tree, context=RECORDED)
