"""`init` and `pseudoris config`: a file to begin with, the schema for editors, and what differs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from pseudoris.schemas.config_layers import config_schema, load_config, preset_names, settings, shown_config
from pseudoris.schemas.config_layers import preset_layers as layers_of
from tests.builders.command import pseudoris_here as command

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"# yaml-language-server: \$schema=(.*)\n")
EXAMPLES = sorted([*ROOT.glob("examples/*.yaml"), *(ROOT / f"schemas/presets/{name}.yaml" for name in preset_names())])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_names_the_schema_and_fits_it(path):
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    # Only a preset that the package ships may extend another; an editor would underline that.
    if tree.pop("extends", None) is None:
        assert (path.parent / LINE.match(text)[1]).resolve() == ROOT / "docs/reference/run.schema.json"
    jsonschema.validate(tree, config_schema())


def test_the_schema_has_every_key_with_its_reason_and_refuses_others():
    whole = yaml.safe_load(shown_config(layers_of("tiny-composed")))
    jsonschema.validate(whole, config_schema())
    schema = config_schema()
    described = json.dumps(schema, ensure_ascii=False)
    assert all(json.dumps(each.reason, ensure_ascii=False) in described for each in settings())
    for wrong in ({"mask": {}}, {"masks": {"points": 3}}, {"filtering": {"tau": "high"}}, {"filtering": {"keep": [3]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("words", ["--set masks.points_per_side=3", "--set images.max_pixels=3", "--shard-size 3"])
def test_what_the_run_decides_that_gives_the_masks_is_refused_beside_it(tmp_path, words):
    failed = command("annotate", "in", str(tmp_path / "out"), "--masks-from", "run", *words.split(), code=2)
    assert "=3: with --masks-from it is as in that run. Leave it out" in failed.stderr


@pytest.mark.parametrize("preset", preset_names())
def test_init_writes_a_file_that_changes_nothing_until_a_line_is_uncommented(tmp_path, preset):
    path = tmp_path / "run.yaml"
    # An earlier schema is written over.
    (tmp_path / "run.schema.json").write_text("{}")
    assert f"over the preset {preset}" in command("init", str(path), "--preset", preset, code=0).stdout
    text = path.read_text(encoding="utf-8")
    assert load_config(preset, path) == load_config(preset)
    assert json.loads((tmp_path / "run.schema.json").read_text(encoding="utf-8")) == config_schema()
    body = text[text.index("\n#images:") :]
    path.write_text(body.replace("\n#", "\n"), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["compute"]["seed"] == 0
    assert load_config(preset, path) == load_config(preset)


def test_init_replaces_no_file_and_names_the_folder_that_is_missing(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("mine")
    for given, message in (
        (path, f"{path} exists: give another PATH"),
        (tmp_path / "none" / "run.yaml", f"The folder {tmp_path / 'none'} for run.yaml does not exist"),
    ):
        assert message in " ".join(command("init", str(given), code=2).stderr.split())
    assert path.read_text() == "mine"


def test_diff_shows_what_differs_in_presets_files_and_runs(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("preset: base\n")
    assert 'architecture: "vit_b"  # preset base' in command("config", "show", "--config", str(path)).stdout
    path.write_text("filtering: {tau: 2.0}\n")
    assert command("config", "diff", "tiny", str(path), code=1).stdout == "filtering.tau: 1.35 -> 2.0\n"
    command("config", "diff", "tiny", "tiny", code=0)
    run = command("config", "diff", "tiny-composed", "tests/versions/0.5.0/finished")
    assert "shards.max_images: 16 -> 2\n" in run.stdout
    unknown = command("config", "diff", "tinny", "tiny", code=2)
    assert "'tinny' is no preset (base, base-composed, open" in unknown.stderr
