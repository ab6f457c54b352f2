"""Files that a configuration reads once, fitted values and banks of texts: checked, and part of the method."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.primitives.noun_phrases import noun_phrase
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.fitted import (
    CONFIDENCE_COLUMNS,
    ConfidenceConfig,
    FittedConfig,
    NounRelations,
    Rated,
    WeightLine,
    confidences,
    features,
    line_weights,
    logistic,
    ranks,
)
from tests.builders.fitted import POSTERIOR, fitted, fitted_file

CONFIDENCE = {"log_uniqueness": 1.0}
DRAWN = {"drawn": {"bias": 1.0, "slope": 0.5}}


def test_the_weight_is_a_line_in_the_log_odds_and_one_without_a_confidence_or_a_line():
    line = WeightLine(bias=0.5, slope=2.0)
    due = 1 / (1 + math.exp(-(0.5 + 2 * math.log(0.8 / 0.2))))
    assert line_weights(line, np.array([0.8])) == pytest.approx([due], abs=1e-6)
    assert line_weights(WeightLine(), np.array([0.0, 0.25, 1.0])).tolist() == [0.0, 0.25, 1.0]
    assert line_weights(WeightLine(bias=-3.0), np.array([np.nan, 0.5])).tolist() == [1.0, 0.047426]
    assert line_weights(None, np.array([0.1, np.nan])).tolist() == [1.0, 1.0]


def test_values_are_part_of_the_method_and_are_not_read_again():
    plain, weighed = (
        load_config("tiny", None, [fitted(confidence=CONFIDENCE, **lines)]) for lines in ({}, {"pair_weight": DRAWN})
    )
    assert plain.filtering.fitted_values.pair_weight is None
    assert weighed.method()["filtering"]["fitted"]["values"]["pair_weight"]["drawn"] == DRAWN["drawn"]
    assert config_hash(plain) != config_hash(weighed)
    fitted_file(confidence=CONFIDENCE, pair_weight=DRAWN).unlink()
    assert type(plain).model_validate_json(weighed.model_dump_json()) == weighed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pair_weight": DRAWN}, "pair_weight.drawn needs the weights of confidence"),
        (
            {"confidence": CONFIDENCE, "pair_weight": {"drawn": {"slope": -1}}},
            r"slope: .*greater than or equal to 0 \(got -1\)",
        ),
        ({"filtering": {"confidence": {}}}, r"filtering.fitted.values.filtering: unknown key"),
        ({"posterior": {"counts": "draws"}}, "filtering.fitted.values.posterior.noun_share: missing"),
        ({"models": {"caption": "0"}}, "filtering.fitted.values.models.caption: String should match"),
        ("filtering.fitted={uri: none.yaml}", r"uri 'none.yaml' cannot be read \(No such file"),
        ("filtering.fitted={uri: 'builtin:none.yaml'}", r"uri 'builtin:none.yaml' cannot be read"),
        ("filtering.fitted={uri: x, values: {}}", "filtering.fitted.sha256: missing"),
        (f"filtering.fitted.sha256={'0' * 64}", f"has the sha256 .*, expected {'0' * 64}: restore the file"),
        ({"confidence": {"truth": 1}}, "has weights for a listener's scores, but captions.listening"),
        ({"confidence": {"grounding": 1.0}}, "has a weight for a second opinion, and only runs of older versions"),
        ("captions.listening={crops: [context_3.0]}", "has 'context_3.0', which is not captioned; choose from masked"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", None, [given if isinstance(given, str) else fitted(**given)])


def test_a_strangers_header_opens_no_file():
    with pytest.raises(ValidationError, match="values"):
        FittedConfig.model_validate({"uri": str(fitted_file(confidence=CONFIDENCE)), "sha256": "0" * 64})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret " * 60_000, "holds no keys such as `confidence:`"),
        ("", "holds no keys"),
        ("{", "is not YAML"),
        ("models: {}\nmodels: {}", "the key models stands twice in the mapping of line 1: keep one of both"),
        ("{scene-000.png: [], scene-001.png: []}", "x.yaml holds no keys such as `confidence:`"),
        (f"models: {'secret ' * 60_000}", r"values\.models: .*\(got '(secret ){14}s…\)"),
        ("{confidence: {bais: 1}}", r"values\.confidence\.bais: unknown key"),
    ],
    ids=["text", "nothing", "not YAML", "a key twice", "a truth", "a long value", "another key"],
)
def test_a_file_of_something_else_is_named_with_the_remedy_and_not_repeated(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"{message}.*`pseudoris calibrate --to` writes such a file") as raised:
        load_config("tiny", None, [f"filtering.fitted.uri={tmp_path / 'x.yaml'}"])
    told = str(raised.value)
    assert str(tmp_path / "x.yaml") in told
    assert len(told) < 600
    assert "did you mean" not in told


@pytest.mark.parametrize(
    ("preset", "words", "counts"),
    [
        ("base", (), "draws"),
        ("tiny", ("filtering.fitted=null",), "draws"),
        ("tiny", ("filtering.fitted=null", "captions.listening={}"), "probability"),
        ("tiny", (fitted(confidence=CONFIDENCE),), "draws"),
    ],
)
def test_composing_without_a_fit_has_weights_for_any_captioner(preset, words, counts):
    values = load_config(preset, None, ["composing={}", *words]).filtering.fitted_values
    assert values.posterior.counts == counts
    assert values.models == {}
    assert values.posterior != POSTERIOR
    assert (values.confidence is None) == ("fitted=null" in "".join(words) or not words)
    # Without composing nothing is added: the hash of a method stays.
    assert load_config(preset, None, words).filtering.fitted_values.posterior is None


def test_what_was_fitted_is_kept_and_one_of_probabilities_needs_a_listener():
    assert load_config("tiny", None, ["composing={}"]).filtering.fitted_values.posterior == POSTERIOR
    counting = ["composing={}", fitted(posterior={**POSTERIOR.model_dump(), "counts": "probability"})]
    with pytest.raises(ConfigError, match=r"counts probabilities needs a listener, but captions\.listening"):
        load_config("tiny", None, counting)
    assert load_config("tiny", None, [*counting, "captions.listening={}"]).composing is not None


WEIGHTS = ConfidenceConfig(bias=-1.0, listener=0.5, truth=2.0, relative_truth=1.0, log_uniqueness=3.0, correctness=0.7)


def rated(groups, texts=None, **values):
    size = len(groups)
    scores = {name: np.array(values.get(name, [1.0] * size), np.float64) for name in CONFIDENCE_COLUMNS}
    return Rated(groups, texts or ["a circle"] * size, scores)


def test_confidence_is_the_logistic_of_the_weighted_features():
    both = rated(["a", "a"], listener=[0.9, 0.5], truth=[-0.5, -0.2], uniqueness=[1.2, 0.8], correctness=[0.7, 0.6])
    odds = -1 + 0.5 * math.log(9) + 2 * -0.5 + 1 * (-0.5 - -0.2) + 3 * math.log(1.2) + 0.7 * 0.7
    other = -1 + 0 + 2 * -0.2 + 0 + 3 * math.log(0.8) + 0.7 * 0.6
    due = [1 / (1 + math.exp(-each)) for each in (odds, other)]
    assert confidences(both, WEIGHTS) == pytest.approx(due, rel=1e-12)
    # Of another mask, its own best truth counts.
    assert features(rated(["a", "b"], truth=[-0.5, -0.2]), 0.0)["relative_truth"].tolist() == [0.0, 0.0]


def test_a_word_counts_by_how_many_of_the_masks_captions_say_it():
    texts = ["a red circle", "a circle", "a large circle", "a large red circle", "a blue star"]
    three = rated(
        ["a"] * 4 + ["b"], texts, count=[5, 3, 1, 1, 2], caption_score=np.log([0.4, 0.4, 0.1, 0.1, 0.2]).tolist()
    )
    found = features(three, 0.0)
    assert np.exp(found["vote"]) == pytest.approx([0.6, 1.0, 0.2, 0.2, 1.0])
    assert np.exp(found["consensus"]) == pytest.approx([0.5, 1.0, 0.2, 0.2, 1.0])
    assert found["num_words"].tolist() == [3, 2, 3, 4, 3]


def test_extremes_are_bounded():
    found = features(rated(["a", "b"], listener=[0.0, 1.0], uniqueness=[1e-9, 99.0], truth=[-1, -1]), 0.0)
    assert found["listener"].tolist() == [-7.0, 7.0]
    assert found["log_uniqueness"].tolist() == [-1.0, 1.0]
    assert confidences(rated(["a"]), ConfidenceConfig(bias=-800.0)).tolist() == [0.0]
    assert confidences(rated(["a"]), ConfidenceConfig(bias=800.0)).tolist() == [1.0]
    hopeless = rated(["a", "a"], ["a", "b"], caption_score=[-1.0, -900.0])
    assert features(hopeless, 0.0)["consensus"].tolist()[1] == -6.0


def test_the_ratios_of_a_mask_alone_in_its_image_count_as_configured():
    alone = rated(["a"], uniqueness=[math.nan], distinctiveness=[math.nan])
    best = ConfidenceConfig(log_uniqueness=2.0, log_distinctiveness=1.0)
    assert confidences(alone, best) == pytest.approx(1 / (1 + math.exp(-3.0)))
    assert confidences(alone, best.model_copy(update={"lone_log_ratio": 0.0})).tolist() == [0.5]


def test_where_nobody_listened_only_what_needs_a_listener_is_unknown():
    nan = [math.nan] * 2
    silent = rated(["a", "a"], listener=nan, truth=nan, caption_score=nan)
    assert np.isnan(confidences(silent, ConfidenceConfig(listener=1.0))).all()
    assert np.isnan(ranks(confidences(silent, ConfidenceConfig(consensus=1.0)), ["a", "a"])).all()
    blind = ConfidenceConfig(bias=1.0, correctness=1.0, vote=1.0)
    assert not blind.needs_listener
    assert np.isfinite(confidences(silent, blind)).all()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.1, 0.5, 0.9, math.nan])), max_size=12))
def test_ranks_are_places_among_the_masks_own(rows):
    groups = [group for group, _ in rows]
    confidence = np.array([value for _, value in rows], np.float64)
    found = ranks(confidence, groups)
    for row, (group, value) in enumerate(rows):
        if math.isnan(value):
            assert math.isnan(found[row])
            continue
        ahead = [
            other
            for other, (of, its) in enumerate(rows)
            if of == group and (its > value or (its == value and other < row))
        ]
        assert found[row] == len(ahead) + 1


def test_the_share_of_a_second_opinion_is_a_feature_that_is_left_out_of_a_header_without_weight():
    columns = {name: np.full(3, np.nan) for name in CONFIDENCE_COLUMNS}
    rated = Rated(["a", "a", "b"], ["a circle"] * 3, {**columns, "grounding_share": np.array([0.2, 0.9, 1.0])})
    found = confidences(rated, ConfidenceConfig(grounding=1.0))
    assert found == pytest.approx([0.2, 0.9, logistic(np.array([7.0]))[0]])
    assert "grounding" not in ConfidenceConfig(vote=1.0).model_dump()
    assert ConfidenceConfig.model_validate(ConfidenceConfig(grounding=0.5).model_dump()).grounding == 0.5


@pytest.mark.parametrize(
    ("relations", "said"),
    [
        ({"same": [["man", "guy"], ["guy", "bloke"]]}, "one group"),
        ({"same": [["man", "guy"]], "wider": {"person": ["guy"]}}, "the first of its names"),
        ({"wider": {"person": []}}, "covers others"),
        ({"wider": {"person": ["man"], "man": ["person"]}}, "cover each other"),
    ],
)
def test_relations_of_nouns_that_contradict_themselves_are_refused(relations, said):
    with pytest.raises(ValueError, match=said):
        NounRelations.model_validate(relations)


def test_a_wider_name_is_true_of_what_a_narrower_one_covers():
    found = NounRelations(same=(("dog", "hound"),), wider={"animal": ("dog", "cat"), "thing": ("animal",)})
    assert found.truth["thing"] == dict.fromkeys(("thing", "animal", "dog", "cat"), 1.0)
    assert found.truth["hound"] == {"dog": 1.0, "animal": 0.5, "thing": 0.5}


BANKS = sorted((Path(__file__).parents[2] / "schemas/presets").glob("*.bank.txt"))
# Names that are true of many things: "no animal" is seldom right where no caption says "animal".
WIDER = "animal bird vehicle food fruit furniture person man woman child clothing tool toy plant building thing object"


def bank_file(folder, data: bytes):
    path = folder / "texts.txt"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def banked(path, digest: str | None = None) -> RunConfig:
    words = [f"composing.bank.uri={path}", *([] if digest is None else [f"composing.bank.sha256={digest}"])]
    return load_config("tiny-composed", assignments=words)


def test_a_bank_is_its_lines_cleaned_and_each_once(tmp_path):
    path, digest = bank_file(tmp_path, b"the red boat\r\n\nThe  Red boat.\na key\n")
    found = banked(path).composing.bank
    assert (found.values.texts, found.sha256) == (("the red boat", "a key"), digest)
    assert banked(path, digest).composing.bank == found


def test_the_identity_has_the_digest_and_a_header_is_read_without_the_file(tmp_path):
    path, digest = bank_file(tmp_path, b"a key\n")
    config = banked(path)
    assert config.method()["composing"]["bank"] == {"uri": str(path), "sha256": digest}
    path.unlink()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("data", "digest", "expected"),
    [
        (b"\n \n", None, r"holds 0 texts, and 1 to 5000 are allowed"),
        (b"a key\n\xff", None, r"texts\.txt, line 2 is not UTF-8: name a file with one text a line"),
        (b"a key\n\na \0 key", None, r"texts\.txt, line 3 holds a control character"),
        (b"the red boat\nDas rote Boot", None, r"texts\.txt, line 2 is not in English"),
        ("the café\n红色的船".encode(), None, r"texts\.txt, line 2 is not in English"),
        (b"".join(b"a key %d\n" % n for n in range(5001)), None, "holds 5001 texts"),
        (b"a key", "0" * 64, "composing.bank: .* expected 0000"),
        (b"a" * 201, None, r"texts\.txt, line 1 has more than 200 letters"),
        (None, None, r"composing.bank: uri .*texts.txt' cannot be read .*one text a line"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, data, digest, expected):
    if data is not None:
        bank_file(tmp_path, data)
    with pytest.raises(ConfigError, match=expected):
        banked(tmp_path / "texts.txt", digest)


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.name)
def test_each_text_of_a_shipped_bank_is_read_whole_as_one_thing_and_is_no_wider_name(path):
    texts = path.read_text(encoding="utf-8").splitlines()
    found = {text: noun_phrase(text, head_noun(text)) for text in texts}
    assert len(found) == len(texts)
    assert [text for text, phrase in found.items() if phrase is None or f"the {phrase.text}" != text] == []
    assert [text for text, phrase in found.items() if phrase.number == "several" or phrase.noun in WIDER.split()] == []
