"""Preset, then YAML, then `--set`; a mistake names its key and the nearest known one; rules that span fields."""

import os
import re

import pytest
import yaml
from pydantic import ValidationError

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import RECORDED
from pseudoris.schemas import config
from pseudoris.schemas.config_layers import (
    IMPORT_PRESET,
    as_begun,
    config_hash,
    load_config,
    own_layers,
    preset_layers,
    preset_names,
    settings,
    shown_config,
)


def test_assignments_win_over_yaml_and_yaml_over_the_preset(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("masks: {points_per_side: 8, crop_n_layers: 1}\n", encoding="utf-8")
    loaded = load_config("tiny", path, ["masks.points_per_side=16"])
    assert (loaded.masks.points_per_side, loaded.masks.crop_n_layers) == (16, 1)
    assert loaded.masks.points_per_batch == load_config("tiny").masks.points_per_batch


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("masks.points_per_sid", "masks.points_per_side"),
        ("tau", "filtering.tau"),
        ("sampling", "captions.sampling"),
        ("poins_per_side", "masks.points_per_side"),
        # Of a section that may be None.
        ("max_per_form", "composing.max_per_form"),
        # A key that only the composer by shares read.
        ("composing.max_per_mas", "composing.max_per_mask"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_is_meant(given, meant):
    key = given if given.count(".") < 2 else given.rpartition(".")[0]
    with pytest.raises(ConfigError, match=rf"{key}: unknown key; did you mean {meant}\?"):
        load_config("tiny", assignments=[f"{given}=3"])


def test_two_different_presets_are_refused(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("preset: base\n")
    with pytest.raises(ConfigError, match=re.escape(f"the preset is 'paper', but --config {path} says 'preset: base'")):
        load_config("paper", path)
    with pytest.raises(ConfigError, match="but --set says 'preset: tiny'"):
        load_config("base", path, ["preset=tiny"])
    # With `base` alone, these settings are not valid.
    with pytest.raises(ConfigError, match="but --set says 'preset: base'"):
        load_config("tiny", None, ["preset=base", "composing={}"])
    assert load_config("base", path).preset == "base"
    # All written out, it says the same over each.
    path.write_text(shown_config(preset_layers("base")))
    assert load_config("paper", path) == load_config("base")


@pytest.mark.parametrize(
    ("word", "path"),
    [
        *((path, path) for path in ("[a].json", "{a}.json", "*x.json", "%x.json", "@x", "/in/a #1.json", "x: y", "12")),
        *(("null", None), ("", None), ("'[a] #1.json'", "[a] #1.json")),
    ],
)
def test_a_path_is_what_it_says_and_may_be_quoted_or_null(word, path):
    assert load_config("tiny", None, [f"masks.prior.path={word}"]).masks.prior.path == path


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "cannot be read as YAML"), ("- a", "run.yaml holds no keys"), (None, "^/.*run.yaml does not exist")],
)
def test_a_bad_yaml_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", path)


def test_a_file_chooses_its_preset_and_what_0_5_asked_of_images_is_left_out(tmp_path, caplog):
    path = tmp_path / "run.yaml"
    path.write_text("preset: base\ndomain: {weights: {uri: x}}\nplacement: {accept_domain: true}\n", encoding="utf-8")
    assert load_config(None, path) == load_config("base")
    assert "domain and placement.accept_domain: left out" in caplog.text


def test_the_hash_follows_the_content_alone():
    assert config_hash(load_config("tiny")) == config_hash(load_config("tiny", assignments=["compute.seed=0"]))
    assert config_hash(load_config("tiny")) != config_hash(load_config("tiny", assignments=["compute.seed=1"]))
    # What it was in 0.5, whose bits were all stored, without hashes.
    as_before = load_config("tiny", assignments=["images.bits=stored", "images.phash=false"])
    assert config_hash(as_before).startswith("a6441bb55846c365")


SECRET = "https://user:hunter2@host/x.pth"


@pytest.mark.parametrize(
    "key",
    [
        *("masks.weights.uri", "masks.weights.how_to_get", "masks.prior.path", "filtering.fitted.uri"),
        *("source.uri_root", "source.endpoint_url", "captions.options.url"),
        *("images.decoder_plugins", "images.max_pixels", "unknown.key"),
    ],
)
@pytest.mark.parametrize("way", ["yaml", "assignment"])
def test_a_uri_with_a_secret_is_refused_wherever_it_stands_without_repeating_it(key, way, tmp_path):
    path = tmp_path / "run.yaml"
    names = key.split(".")
    path.write_text("".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(names))[:-1] + f" ['{SECRET}']\n")
    given = (path, ()) if way == "yaml" else (None, (f"{key}={SECRET}",))
    with pytest.raises(ConfigError, match=f"{key}: a https:// uri holds credentials.*in the environment") as caught:
        load_config("tiny", *given)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        *(SECRET, f"{SECRET}=", "secret=hunter2", "captions.options.secret=hunter2"),
        *("captions.options.api_key=[hunter2", "captions.options={token: hunter2}"),
    ],
)
def test_no_word_of_an_assignment_with_a_secret_is_repeated(assignment):
    with pytest.raises(ConfigError, match=r"--set|configuration is not valid") as caught:
        load_config("tiny", assignments=[assignment])
    assert "hunter2" not in str(caught.value)
    assert "in the environment" in str(caught.value)


def test_a_yaml_file_that_cannot_be_read_is_told_by_line_and_not_by_its_words(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"masks:\n  weights: {{uri: '{SECRET}'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot be read as YAML: expected .* in line 3") as caught:
        load_config("tiny", path)
    assert "hunter2" not in str(caught.value)


def test_weights_named_anew_lose_the_digest_and_the_remedy_of_those_before(tmp_path):
    weights = load_config("tiny").masks.weights
    assert weights.sha256 is not None
    assert load_config("tiny", assignments=[f"masks.weights.uri={weights.uri}"]).masks.weights == weights
    assert load_config("tiny", assignments=["masks.weights.uri=mine.pth"]).masks.weights.sha256 is None
    assert load_config("base", assignments=["masks.weights.uri=mine.pth"]).masks.weights.how_to_get == ""
    path = tmp_path / "run.yaml"
    path.write_text("masks: {weights: {uri: mine.pth}}\n", encoding="utf-8")
    assert load_config("tiny", path).masks.weights.sha256 is None


def test_a_digest_given_with_the_weights_stays_whatever_the_order():
    words = ["masks.weights.uri=mine.pth", f"masks.weights.sha256={'a' * 64}"]
    for order in (words, words[::-1]):
        assert load_config("tiny", assignments=order).masks.weights.sha256 == "a" * 64


def test_every_key_has_a_reason_and_there_are_at_most_155():
    found = [each for each in settings() if each.section is None]
    assert not [each.key for each in found if not each.reason]
    assert len(found) <= 155


@pytest.mark.parametrize("preset", preset_names())
def test_what_is_shown_is_the_configuration(preset, tmp_path):
    shown = shown_config(preset_layers(preset))
    (tmp_path / "shown.yaml").write_text(shown)
    assert load_config("tiny", tmp_path / "shown.yaml") == load_config(preset)
    assert all(re.search(rf"\b{each.key.rpartition('.')[2]}:", shown) for each in settings())


def test_each_key_says_who_set_it(tmp_path):
    (tmp_path / "my.yaml").write_text("masks: {points_per_batch: 7}")
    own = own_layers(tmp_path / "my.yaml", ["filtering.tau=0.5", "composing={}"])
    lines = shown_config([*preset_layers("tiny-composed"), *own]).splitlines()
    start = {line.strip().split(" ")[0]: line.partition("  # ")[2] for line in lines if not line.startswith("# ")}
    assert start["points_per_batch:"].startswith(f"--config {tmp_path}/my.yaml. Prompts in a forward pass")
    assert start["tau:"].startswith("--set. A candidate is kept")
    assert start["keep:"].startswith("preset tiny-composed. ")
    assert start["points_per_side:"].startswith("preset tiny. ")
    assert start["start_timeout_s:"].startswith("default. ")
    assert yaml.safe_load("\n".join(lines))["masks"]["points_per_batch"] == 7


@pytest.mark.parametrize(
    ("section", "said", "other"),
    [
        ("masks", r"engine=sam needs masks.architecture: vit_b", "ready"),
        ("captions", r"engine=coca needs captions.architecture, such as coca_ViT-L-14", "vlm"),
    ],
)
def test_only_an_engine_that_needs_an_architecture_has_one(section, said, other):
    with pytest.raises(ConfigError, match=said):
        load_config("tiny", assignments=[f"{section}.architecture=null"])
    config = load_config("tiny", assignments=[f"{section}.architecture=null", f"{section}.engine={other}"])
    assert "architecture" not in config.method()[section]


HEX = f"0x{'f' * 5_000}"
BROKEN = {
    "compute.seed=0x": (f"compute.seed={HEX}", "the number 0xf+ in line 1 has more than 64 bits"),
    "base 60": (f"compute.seed=1{':1' * 3_000}", "the number 1:1.* is in base 60: write it out"),
    "a time as a number": (
        "compute.seed=1:30:00",
        "the number 1:30:00 in line 1 is in base 60: write it out, or quote",
    ),
    "binary digits": (f"masks.options={{a: 0b{'1' * 65}}}", "has more than 64 bits"),
    "octal digits": (f"masks.options={{a: 0{'7' * 30}}}", "has more than 64 bits"),
    "a long key": (f"masks.options={{? {HEX} : 1}}", "has more than 64 bits"),
    "base 60 with a point": (f"filtering.tau=1{':1' * 3_000}.5", "is in base 60"),
    "no number among options": ("masks.options={a: .nan}", "the number .nan in line 1 is not finite"),
    "no end": ("masks.pred_iou_thresh=-.inf", "is not finite"),
    "too large for a float": ("masks.pred_iou_thresh=1e400", "pred_iou_thresh: Input should be a finite number"),
    "a quoted infinity": ("captions.beam.length_penalty='inf'", "length_penalty: Input should be a finite number"),
    "the temperature": ("captions.sampling.temperature=infinity", "temperature: Input should be a finite number"),
    "seconds without end": ("images.decoder_timeout_s=inf", "decoder_timeout_s: Input should be a finite number"),
    "more CPUs than there are": ("placement.read.num_cpus=1e308", "num_cpus: Input should be less than or equal to"),
    "more GPUs than there are": ("placement.fused.num_gpus=1e9", "num_gpus: Input should be less than or equal to"),
    "a negative resource": ("placement.fused.resources={spot: -1}", "resources.spot: .* greater than or equal to 0"),
    "a resource of Ray's": ("placement.fused.resources={CPU: 1}", "'CPU' is no custom resource of Ray: set num_cpus"),
    "a resource without a name": ("placement.fused.resources={'': 1}", "'' is no custom resource"),
    "NUL in a path": ('masks.prior.path="a\\0b"', r"a text holds '\\x00', which neither a path nor JSON can hold"),
    "NUL among options": ('masks.options={a: ["\\0"]}', r"a text holds '\\x00'"),
    "half a letter": ('masks.engine="\\ud800"', r"a text holds '\\ud800'"),
    "a word that is not UTF-8": ("masks.prior.path=\udcff", r"a text holds '\\udcff'"),
    "a number that is not UTF-8": ("masks.points_per_side=\udcff", "points_per_side: .*unacceptable character"),
    "a key twice": ("masks.options={a: 1, b: 2, a: 3}", "the key a stands twice in the mapping of line 1: keep one"),
    "a section twice": ("masks: {points_per_side: 8}\nmasks: {crop_n_layers: 1}\n", "the key masks stands twice"),
    "a number as a file": (f"compute: {{seed: {HEX}}}\n", "run.yaml cannot be read as YAML: the number 0xf+ in line 1"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_configuration_that_no_run_could_keep_is_refused_in_one_sentence(tmp_path, way):
    text, message = BROKEN[way]
    path = tmp_path / "run.yaml"
    path.write_text(text if text.endswith("\n") else "", encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as refused:
        load_config("tiny", path, [] if text.endswith("\n") else [text])
    said = str(refused.value).removeprefix("the configuration is not valid:\n")
    assert "\n" not in said
    assert len(said) < 400
    said.encode()


def test_a_pipe_in_place_of_a_configuration_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match=r"run\.yaml is a pipe or a device"):
        load_config("tiny", tmp_path / "run.yaml")


def test_the_path_of_a_configuration_may_hold_any_letter_that_a_system_takes():
    with pytest.raises(ConfigError, match="cannot be read as YAML: embedded null byte"):
        load_config("tiny", "a\0b")


@pytest.mark.parametrize(
    ("preset", "words", "message"),
    [
        ("papr", (), r"unknown preset 'papr'.*did you mean 'paper'"),
        ("tiny", ("compute.threads=0",), r"compute.threads: .*greater than or equal to 1 \(got 0\)"),
        ("tiny", ("masks.prior.kind=table",), r"prior.kind=table needs prior.path"),
        ("tiny", ("captions.beam.num_beams=5",), "num_beams 5 is not a multiple of num_groups 3"),
        ("base", ("placement.fused.num_gpus=0",), r"compute.device=cuda, but placement.fused.num_gpus=0"),
    ],
)
def test_a_mistake_is_refused_with_what_is_allowed(preset, words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(preset, assignments=words)


def test_the_method_leaves_out_placement_endpoint_payer_queries_and_preset():
    method = load_config("tiny").method()
    assert set(method) == {"source", "images", "masks", "captions", "filtering", "composing", "compute", "shards"}
    left_out = set(config.SourceConfig.model_fields) - set(method["source"])
    assert left_out == {"endpoint_url", "requester_pays", "allowed_query"}
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
        *("masks.points_per_side=100000", "placement.storage.patience_s=1000000000"),
        "images.decoder_timeout_s=1000000000",
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


OF_0_6_0 = [
    *("composing.places=drawings", "composing.has_needed_words=false", "composing.min_group_or_none=null"),
    *("composing.has_too_small=false", "composing.min_further=0.9", "captions.whole_picture=0"),
    "composing.has_colours=false",
]


@pytest.mark.parametrize("preset", ["base-composed", "open-composed"])
@pytest.mark.parametrize("own", [[], ["captions.listening=null"], ["composing.min_first=0.4"]])
def test_a_run_that_began_with_0_6_0_goes_on_with_what_its_preset_meant(preset, own):
    begun = load_config(preset, None, [*OF_0_6_0, *own])
    assert begun.filtering.fitted.uri.startswith("builtin:any-")
    now = load_config(preset, None, own)
    assert now.method() != begun.method()
    assert as_begun(now, begun).method() == begun.method()
    # What a user sets otherwise than the run and the preset is another run.
    other = load_config(preset, None, [*own, "composing.min_further=0.6"])
    assert as_begun(other, begun).composing.min_further == 0.6
    # A run that began with today's preset has it.
    assert as_begun(now, now) == now


def test_captions_of_the_whole_picture_need_a_sampling_rule():
    with pytest.raises(ConfigError, match=r"whole_picture=3 draws by sampling rules, and there is none: set sampling"):
        load_config("tiny", None, ["captions.whole_picture=3", "captions.sampling={top_k: [], top_p: []}"])


@pytest.mark.parametrize("preset", preset_names())
def test_a_run_of_0_6_0_goes_on_with_all_bits_and_no_hashes_and_a_header_leaves_out_what_it_has_as_0_6_0(preset):
    begun, now = load_config(preset, None, ["images.bits=stored", "images.phash=false"]), load_config(preset)
    assert not {"bits", "window", "min_side", "phash"} & begun.model_dump(mode="json")["images"].keys()
    assert now.images.bits == ("stored" if preset == "paper" else "auto")
    assert now.images.phash
    assert as_begun(now, begun).method()["images"] == begun.method()["images"]
    # A number is the user's own.
    twelve = load_config(preset, None, ["images.bits=12"])
    assert as_begun(twelve, begun).images.bits == 12


def test_an_import_of_0_6_0_goes_on_too():
    begun, now = load_config("tiny", None, ["images.bits=stored", "images.phash=false"]), load_config("tiny")
    begun, now = (each.model_copy(update={"preset": IMPORT_PRESET}) for each in (begun, now))
    assert as_begun(now, begun).images == begun.images


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("images.bits=7", r"images\.bits: give auto, stored, or a number of bits from 8 to 16 \(got 7\)"),
        ("images.bits=many", r"images\.bits: give auto, stored, or a number of bits from 8 to 16 \(got 'many'\)"),
        (
            "images.window=5",
            r"images\.window: give \[LOW, HIGH\]: what becomes black, and what becomes white \(got 5\)",
        ),
        ("images.window=[1]", r"images\.window: give \[LOW, HIGH\]: .* \(got \[1\]\)"),
        ("images.window=[3, 3]", r"window \[3.0, 3.0\] is empty: give \[LOW, HIGH\] with LOW below HIGH"),
    ],
)
def test_bits_and_windows_that_are_none_are_refused_in_one_sentence(given, said):
    with pytest.raises(ConfigError, match=said):
        load_config("tiny", assignments=[given])
