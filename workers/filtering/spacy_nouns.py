"""Finds head nouns and their modifiers as `filtering.nouns` says: by rules, or on spaCy's parse.

Called by `caption_texts.py`, the composer, `training`, `doctor`, and for a run's identity by `pipeline` and
`workers/stages.py`. spaCy is an extra, imported at its first use. A parse is read by our rule or by the authors'. The
language model of our rule is a package; that of the authors' rule is a setting: a package, or a folder that
`nlp.to_disk` wrote. The digest of its files must be part of a run's identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from pseudoris.primitives import english as lexicon
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import install
from pseudoris.primitives.head_nouns import head_noun, progressive
from pseudoris.primitives.noun_phrases import (
    NounPhrase,
    PhraseReader,
    insert_adjective,
    is_no_attribute,
    noun_phrase,
    number_of,
    phrases_by_rules,
)
from pseudoris.primitives.untrusted import file_sha256
from pseudoris.schemas.config import FilterConfig

# `filtering.nouns=spacy` loads this pipeline.
SPACY_MODEL: Final = "en_core_web_sm"
# The parse does not need these parts of English pipelines, which take most of the time.
_UNUSED: Final = ("ner", "lemmatizer")


def check_spacy(config: FilterConfig) -> str:
    """Return the versions of spaCy and its pipeline without loading them; loading takes seconds."""
    if find_spec("spacy") is None:
        raise ConfigError(f"filtering.nouns={config.nouns}, but spaCy is not installed. Run: {_install(config)}")
    model = _model(config)
    if config.nouns == "spacy_first_child":
        return f"spaCy {version('spacy')}, {_folder(config)}"
    try:
        return f"spaCy {version('spacy')}, {model} {version(model)}"
    except PackageNotFoundError as error:
        raise _no_model(config) from error


def pipeline_digest(config: FilterConfig) -> str:
    """Return the sha256 of the pipeline's files and their names; not for `rules`."""
    check_spacy(config)
    total, folder = hashlib.sha256(), _folder(config)
    for path in sorted(folder.rglob("*")):
        # Compiled Python files are left out, because they differ between machines.
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return total.hexdigest()


def spacy_pipeline(config: FilterConfig) -> Any:
    """Return the loaded parser, a `spacy.Language`; `ConfigError` if it is missing or parses nothing."""
    check_spacy(config)
    import spacy

    try:
        pipeline = spacy.load(_model(config), exclude=_UNUSED)
        list(pipeline("a dog").noun_chunks)
    except (OSError, ValueError) as error:
        raise ConfigError(f"filtering.nouns={config.nouns}: {_model(config)} cannot be used: {error}") from error
    return pipeline


NounFinder = Callable[[Iterable[str]], list[str | None]]


def noun_finder(config: FilterConfig) -> NounFinder:
    """Return the function that `filtering.nouns` names. It maps each expression to its head noun, or to None."""
    if config.nouns == "rules":
        return lambda texts: [head_noun(text) for text in texts]
    pipeline, rule = spacy_pipeline(config), head_of_parse if config.nouns == "spacy" else first_child_head
    return lambda texts: list(map(rule, pipeline.pipe(texts)))


def phrase_reader(config: FilterConfig) -> PhraseReader:
    """Return what reads captions as `filtering.nouns` says: the parser for `spacy`, else the rules."""
    if config.nouns != "spacy":
        return phrases_by_rules
    pipeline = spacy_pipeline(config)
    # A parse has heads of one word. The composer asks for names of several.
    return lambda captions, nouns: [
        noun_phrase(parsed.text, noun) if " " in noun else phrase_of_parse(parsed, noun)
        for parsed, noun in zip(pipeline.pipe(captions), nouns, strict=True)
    ]


def phrase_of_parse(parsed: Any, noun: str) -> NounPhrase | None:
    """Return what a parse says of its head, if that is `noun`: modifiers, verbs and their objects, what it is with."""
    root = _chunk_root(parsed, max_children=None)
    head = None if root is None else _skip_quantities(root)
    if head is None or head.lower_ != noun.lower() or any(token.dep_ == "neg" for token in parsed):
        return None
    # In "a group of cows grazing" the clause may belong to the group, so the children of both words are read.
    around = [child for token in dict.fromkeys((head, root)) for child in token.children]
    before = [_words(each) for each in head.lefts if each.dep_ in _BEFORE and not is_no_attribute(each.lower_)]
    after = [each for child in head.children for each in _with(child)]
    verbs = [each for each in around if each.dep_ in ("acl", "relcl")]
    verbs += [root.head] if root.dep_ in ("nsubj", "nsubjpass") else []
    for verb in verbs:
        further = (each for each in verb.children if each.dep_ in ("conj", "xcomp", "advcl") and each.pos_ == "VERB")
        verbs += [each for each in further if not _objects(each, "nsubj")]
        opening = "with" if verb.lower_ in lexicon.POSSESSIONS else progressive(verb.lower_)
        said = [f"{opening} {_words(each)}" for each in _objects(verb, "dobj")]
        said = said or [each for child in verb.children for each in _with(child, opening)]
        for adjective in _objects(verb, "acomp"):
            insert_adjective(before, adjective.lower_)
        if verb.pos_ == "VERB" and not said and verb.lower_ not in lexicon.VERBS_OF_PICTURES:
            before.insert(0, progressive(verb.lower_))
        after += said
    counted, is_many = {each.lower_ for each in head.lefts}, head.tag_ in ("NNS", "NNPS")
    number = number_of(head.lower_, counted, is_list=bool(_objects(head, "conj")), is_many=is_many)
    return NounPhrase(head.lower_, tuple(dict.fromkeys(before)), tuple(dict.fromkeys(after)), number)


_BEFORE: Final = frozenset(("amod", "compound", "nmod", "poss"))


def _words(token: Any) -> str:
    """The words of a noun or adjective: all before it, and those that `and` or `of` adds."""
    last = max([token.i, *(each.right_edge.i for each in token.rights if each.lower_ == "of" or each.dep_ == "conj")])
    return " ".join(each.lower_ for each in token.doc[token.left_edge.i : last + 1]).replace(" 's", "'s")


def _objects(token: Any, relation: str) -> list[Any]:
    return [each for each in token.children if each.dep_ == relation]


def _with(preposition: Any, verb: str = "") -> Iterator[str]:
    """Yield "with a hat" of a noun, or "filled with lemons" of a verb, if the preposition says what it has."""
    for each in _objects(preposition, "pobj"):
        word = preposition.lower_
        is_participle = not verb.endswith("ing") and word in lexicon.PREPOSITIONS_OF_PARTICIPLES
        is_of_verb = f"{verb} {word}" in lexicon.VERBS_WITH_PREPOSITIONS or is_participle
        is_of_noun = word in ("with", "without", "of") or (word == "in" and each.lower_ in lexicon.CLOTHES)
        near = lexicon.SURROUNDINGS.intersection(token.lower_ for token in preposition.subtree)
        if is_of_verb if verb else is_of_noun and not near:
            yield f"{verb} {word} {_words(each)}".strip()


def head_of_parse(parsed: Any) -> str | None:
    """Return the head noun by our rule, or None.

    It is the root of the noun chunk with the sentence's root, else of its first child that is in a chunk. Pictures,
    quantities and parts are skipped.
    """
    head = _chunk_root(parsed, max_children=None)
    return None if head is None else str(_skip_quantities(head).lower_)


def first_child_head(parsed: Any) -> str | None:
    """Return the head noun by the authors' rule, or None.

    It is the root of the noun chunk with the sentence's root, else of the chunk with the root's first child. No other
    child is asked, and nothing is skipped: "a photo of a dog" has the head "photo".
    """
    head = _chunk_root(parsed, max_children=1)
    return None if head is None else str(head.text)


def _chunk_root(parsed: Any, *, max_children: int | None) -> Any:
    """Return the root of the noun chunk with the sentence's root, else of the first with one of the root's children."""
    root = next((token for token in parsed if token.head == token), None)
    if root is None:
        return None
    chunks = list(parsed.noun_chunks)
    tokens = (root, *list(root.children)[:max_children])
    return next((chunk.root for token in tokens for chunk in chunks if token in chunk), None)


def _skip_quantities(head: Any) -> Any:
    """Replace a picture, quantity or part by the object of its `of`, repeatedly."""
    while head.lower_ in lexicon.PICTURES | lexicon.QUANTITIES | lexicon.PARTS:
        behind = next((c for of in head.children if of.lower_ == "of" for c in of.children if c.dep_ == "pobj"), None)
        if behind is None or (head.lower_ == "shot" and behind.lower_ in lexicon.DRINKS):
            break
        head = behind
    return head


def _model(config: FilterConfig) -> str:
    return SPACY_MODEL if config.nouns == "spacy" else config.spacy_model


def _install(config: FilterConfig) -> str:
    return f"{install('spacy')} && python -m spacy download {_model(config)}"


def _no_model(config: FilterConfig) -> ConfigError:
    remedy = f"Run: {_install(config)}"
    if config.nouns == "spacy_first_child":
        remedy += ", or name another pipeline, or its folder, by --set filtering.spacy_model=…"
    return ConfigError(
        f"filtering.nouns={config.nouns}, but its language model {_model(config)} is not installed. {remedy}"
    )


def _folder(config: FilterConfig) -> Path:
    """Return the folder of the pipeline, found as `spacy.load` finds it: a package first, then a path."""
    name = _model(config)
    spec = find_spec(name) if name.isidentifier() else None
    folder = Path(name) if spec is None or spec.origin is None else Path(spec.origin).parent
    if not folder.is_dir():
        raise _no_model(config)
    return folder
