"""Both rules on spaCy's own parses, annotated by hand: its language models are not among the test dependencies.

A pipeline of these parses stands for the authors' `en_core_web_lg`.
"""

import functools
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import noun_prompt
from pseudoris.primitives.noun_phrases import NounPhrase
from pseudoris.schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.faults.image_boundary import ImageBoundary
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.filtering.spacy_nouns import check_spacy, head_of_parse, noun_finder, phrase_of_parse
from tests.oracles.pretended_gpu import pretended_gpu
from tests.workers.filtering.test_scorer import build_image, build_shard

spacy = pytest.importorskip("spacy", reason="the spacy extra is not installed: pip install 'spacy>=3.8,<4'")


@functools.cache
def english():
    return spacy.blank("en")


def parsed(*tokens):
    """Build a Doc from (word, part of speech, index of its head, dependency)."""
    words, pos, heads, deps = zip(*tokens, strict=True)
    return spacy.tokens.Doc(english().vocab, list(words), pos=list(pos), heads=list(heads), deps=list(deps))


def test_a_parse_says_what_describes_its_head():
    doc = parsed(
        ("two", "NUM", 2, "nummod"),
        ("old", "ADJ", 2, "amod"),
        ("men", "NOUN", 2, "ROOT"),
        ("in", "ADP", 2, "prep"),
        ("red", "ADJ", 5, "amod"),
        ("shirts", "NOUN", 3, "pobj"),
        ("riding", "VERB", 2, "acl"),
        ("a", "DET", 8, "det"),
        ("horse", "NOUN", 6, "dobj"),
        ("on", "ADP", 6, "prep"),
        ("sand", "NOUN", 9, "pobj"),
    )
    assert phrase_of_parse(doc, "Men") == NounPhrase("men", ("old",), ("in red shirts", "riding a horse"), "several")
    assert phrase_of_parse(doc, "horse") is None


A_DOG_RUNS = (("a", "DET", 1, "det"), ("dog", "NOUN", 2, "nsubj"), ("runs", "VERB", 2, "ROOT"))
A_PHOTO = (
    ("a", "DET", 1, "det"),
    ("photo", "NOUN", 1, "ROOT"),
    ("of", "ADP", 1, "prep"),
    ("two", "NUM", 4, "nummod"),
    ("dogs", "NOUN", 2, "pobj"),
)
# The first child of the root is an adverb; a later one is in a chunk.
NOW_A_DOG_RUNS = (
    ("now", "ADV", 3, "advmod"),
    ("a", "DET", 2, "det"),
    ("dog", "NOUN", 3, "nsubj"),
    ("runs", "VERB", 3, "ROOT"),
)
# Two sentences: the root of the first counts.
TWO_SENTENCES = (("a", "DET", 1, "det"), ("Dog", "NOUN", 1, "ROOT"), ("a", "DET", 3, "det"), ("cat", "NOUN", 3, "ROOT"))
TWO_RED = (("two", "NUM", 1, "nummod"), ("red", "ADJ", 1, "ROOT"))
A_MAN_RIDING = (
    ("a", "DET", 1, "det"),
    ("man", "NOUN", 1, "ROOT"),
    ("riding", "VERB", 1, "acl"),
    ("a", "DET", 4, "det"),
    ("horse", "NOUN", 2, "dobj"),
)
A_PAIR = (
    ("photo", "NOUN", 0, "ROOT"),
    ("of", "ADP", 0, "prep"),
    ("a", "DET", 3, "det"),
    ("pair", "NOUN", 1, "pobj"),
    ("of", "ADP", 3, "prep"),
    ("shoes", "NOUN", 4, "pobj"),
)
PARSES = (A_MAN_RIDING, A_PAIR, A_DOG_RUNS, A_PHOTO, NOW_A_DOG_RUNS, TWO_SENTENCES, TWO_RED)


@pytest.mark.parametrize(
    ("tokens", "authors", "ours"),
    [
        (A_MAN_RIDING, "man", "man"),
        (A_PAIR, "photo", "shoes"),
        (A_DOG_RUNS, "dog", "dog"),
        (A_PHOTO, "photo", "dogs"),
        (NOW_A_DOG_RUNS, None, "dog"),
        (TWO_SENTENCES, "Dog", "dog"),
        (TWO_RED, None, None),
    ],
    ids=["root", "quantity", "first child", "picture", "second child", "two roots", "no chunk"],
)
def test_in_paper_the_head_is_of_the_roots_chunk_or_of_its_first_childs_alone(pipeline, tokens, authors, ours):
    paper = load_config("paper").filtering.model_copy(update={"spacy_model": str(pipeline)})
    assert noun_finder(paper)([" ".join(word for word, *_ in tokens)]) == [authors]
    assert head_of_parse(parsed(*tokens)) == ours


@spacy.language.Language.component("written_parses")
def written_parses(doc):
    """Annotate the texts of `PARSES`, as a tagger and a parser would."""
    for tokens in PARSES:
        if [token.text for token in doc] == [word for word, *_ in tokens]:
            return parsed(*tokens)
    if doc.text == "no parse":
        raise ValueError("no parse")
    return parsed(*((token.text, "X", token.i, "ROOT") for token in doc))


@spacy.language.Language.component("never_read")
def never_read(doc):
    """Stand for parts of a pipeline that no head noun depends on."""
    raise AssertionError("it was run")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a pipeline that knows the parses above."""
    path, nlp = tmp_path_factory.mktemp("spacy") / "pipeline", spacy.blank("en")
    nlp.add_pipe("written_parses")
    for name in ("ner", "lemmatizer"):
        nlp.add_pipe("never_read", name=name)
    nlp.to_disk(path)
    return path


def config(pipeline, **changes):
    return FilterConfig(
        architecture="builtin:tiny/clip.json",
        weights=WeightsConfig(uri="random:0"),
        nouns="spacy_first_child",
        spacy_model=str(pipeline),
        **changes,
    )


# On a GPU's host a process makes the texts. It does not know this pipeline's component, and ends, four times.
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.slow, pytest.mark.long])])
def test_in_paper_an_image_whose_caption_raises_fails_alone_also_without_its_process_for_texts(pipeline, device):
    images = [build_image(position, num_masks=2, texts=("a dog runs",)) for position in range(2)]
    bad = replace(images[0].expressions[0], text="no parse")
    images[0] = replace(images[0], expressions=(bad, *images[0].expressions[1:]))
    with pretended_gpu() if device == "cuda" else nullcontext():
        scorer = ClipScorer(config(pipeline), ComputeConfig(device=device))
        done = ImageBoundary(scorer, "filter", is_scored=True)(build_shard(*images))
    assert [image.failure and image.failure.reason for image in done.images] == ["stage_error", None]
    assert {each.head_noun for image in done.images for each in image.expressions} == {"dog"}


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a dog runs", "a photo of a dog"),
        ("a photo of two dogs", "a photo of a photo"),
        ("now a dog runs", "a photo of a now a dog runs"),
        ("two red", "a photo of a two red"),
        ("the red", "a photo of the red"),
    ],
)
def test_in_paper_the_prompt_names_what_the_pipeline_finds_else_the_whole_caption(pipeline, text, prompt):
    settings = config(pipeline)
    assert noun_prompt(text, *noun_finder(settings)([text]), nouns=settings.nouns) == prompt


def test_the_pipelines_files_are_part_of_the_identity(pipeline, tmp_path):
    pipeline = shutil.copytree(pipeline, tmp_path / "pipeline")
    settings = config(pipeline)
    first = ClipScorer.weights_digest(settings)
    assert ClipScorer.weights_digest(settings) == first
    (pipeline / "__pycache__").mkdir()
    (pipeline / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert ClipScorer.weights_digest(settings) == first
    (pipeline / "config.cfg").write_text((pipeline / "config.cfg").read_text() + "\n")
    assert ClipScorer.weights_digest(settings) != first
    assert ClipScorer.weights_digest(settings.model_copy(update={"nouns": "rules"})) != first


def test_a_pipeline_that_is_not_there_is_refused_with_the_command(tmp_path):
    for start in (noun_finder, check_spacy, ClipScorer.weights_digest):
        with pytest.raises(
            ConfigError, match=r"no_such_model is not installed\. .*spacy download no_such_model, or name"
        ):
            start(config("no_such_model"))


def test_a_folder_that_is_no_pipeline_or_has_no_parser_is_refused_by_its_name(tmp_path):
    (tmp_path / "empty").mkdir()
    spacy.blank("en").to_disk(tmp_path / "blank")
    for name in ("empty", "blank"):
        with pytest.raises(ConfigError, match=rf"nouns=spacy_first_child: .*{name} cannot be used"):
            noun_finder(config(tmp_path / name))
