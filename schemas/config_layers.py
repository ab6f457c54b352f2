"""Merges a preset, a YAML file and `--set` words into one config, and shows where each value was set. For most rooms.

`--set` must win over the file, and the file over the preset. `config_hash` is in each run's header: it must not change.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from importlib import resources
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined, to_jsonable_python

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import open_linked
from pseudoris.primitives.uris import secret_in, secrets_in
from pseudoris.primitives.yaml_text import MAX_LETTERS, MAX_LEVELS, fault_of, parse_yaml
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.fitted import PosteriorConfig, for_any_captioner, read_fitted
from pseudoris.schemas.named_files import read_bank

logger = logging.getLogger(__name__)

_NULLS: Final = ("", "null", "~")
# A message shows at most this many letters of a value.
_SHOWN_LETTERS: Final = 100
# A message suggests at most this many similar keys.
_SHOWN_KEYS: Final = 3

# A section that names a file has these keys beside `uri`: the file's digest, its content, and how to get it.
_OF_FILE: Final = ("sha256", "values", "how_to_get")

_Model = TypeVar("_Model", bound=BaseModel)


def preset_names() -> list[str]:
    """Return the names of the presets shipped in the package, sorted."""
    folder = resources.files("pseudoris.schemas") / "presets"
    names = (entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return sorted(name for name in names if not name.endswith(".fitted"))


def load_config(
    preset: str | None = None, path: str | Path | None = None, assignments: Sequence[str] = ()
) -> RunConfig:
    """Return the resolved configuration: `assignments` over the YAML at `path` over the shipped preset.

    Without `preset` it is the one that `path` or an assignment names (`preset: base`), else `tiny`, which knows drawn
    scenes alone: for other images name one. An assignment is `masks.points_per_side=16`; the right-hand side is YAML,
    but a text stands for itself.

    Raises:
        ConfigError: An unknown preset, file, key or value; the message suggests the nearest known name. Or `path` or an
            assignment names another preset than `preset`, and the two differ in what it leaves open. Or a setting is
            gone.
    """
    own = own_layers(None if path is None else Path(path), assignments)
    said, asked = named_preset(own), laid(own)
    if gone := [name for name in ("domain", "placement.accept_domain") if _holds(asked, name.split("."))]:
        logger.warning("%s: left out. This setting of version 0.5 no longer exists: delete it", " and ".join(gone))
    config = validate(laid([*preset_layers(preset or said or "tiny"), *own]))
    refuse_second_opinion(config)
    # A file that sets every key has the same meaning over any preset, so its preset need not match.
    if said not in (None, preset):
        with suppress(ConfigError):
            if config == validate(laid([*preset_layers(said), *own])):
                return config
        where = next(layer.name for layer in reversed(own) if "preset" in layer.tree)
        raise ConfigError(f"the preset is {preset!r}, but {where} says 'preset: {said}': name one of them alone")
    return config


def refuse_second_opinion(config: RunConfig) -> None:
    """Refuse, with a ConfigError, to compute what 0.7.0 no longer can; runs that have it are read all the same."""
    if config.grounding_check is not None:
        raise ConfigError(
            "grounding_check is set, but second opinions are gone since 0.7.0, because no more of the composed texts "
            "were right by them: leave it out, or finish a run that has it with pseudoris 0.6.0"
        )


def as_begun(config: RunConfig, begun: RunConfig) -> RunConfig:
    """Return the config of a session with what its preset meant when the run in OUT began, whose config is `begun`.

    0.7.0 composes for photographs in two presets, counts the bits of grey in all but `paper`, and stores perceptual
    hashes. A setting that is not the preset's stays as it is given.
    """
    named = "tiny" if begun.preset == IMPORT_PRESET else begun.preset
    if config.preset != begun.preset or named not in preset_names():
        return config
    preset, images, captions = load_config(named), config.images, config.captions
    of_preset = [name for name in ("bits", "phash") if getattr(images, name) == getattr(preset.images, name)]
    images = images.model_copy(update={name: getattr(begun.images, name) for name in of_preset})
    config = config.model_copy(update={"images": images})
    now, then, fitted = config.composing, begun.composing, begun.filtering.fitted
    if now is None or then is None or (now.places, then.places) != _PLACES:
        return config
    kept = {name: getattr(then, name) for name in _SINCE_0_7 if getattr(now, name) == getattr(preset.composing, name)}
    if captions.whole_picture == preset.captions.whole_picture:
        captions = captions.model_copy(update={"whole_picture": begun.captions.whole_picture})
    given = config.filtering.fitted
    is_shipped = given is not None and fitted is not None and given.uri in _weights_of_photographs()
    filtering = config.filtering.model_copy(update={"fitted": fitted} if is_shipped else {})
    changed = {"composing": now.model_copy(update=kept), "captions": captions, "filtering": filtering}
    return config.model_copy(update=changed)


# The header of an import names this preset, because it reads no setting of a model; the others are those of `tiny`.
IMPORT_PRESET: Final = "import"
_PLACES: Final = ("photographs", "drawings")
_SINCE_0_7: Final = ("places", "has_needed_words", "has_too_small", "has_colours", "min_group_or_none", "min_further")


def _weights_of_photographs() -> list[str]:
    return [for_any_captioner(is_heard=is_heard, is_of_photographs=True)["uri"] for is_heard in (True, False)]


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of the tree, and who set it: `preset tiny`, `--config FILE` or `--set`."""

    name: str
    tree: Mapping[str, Any]


def preset_layers(preset: str) -> list[Layer]:
    """Return the preset's YAML, after that of the preset that it extends; ConfigError if there is no such preset."""
    if preset not in preset_names():
        near = difflib.get_close_matches(preset, preset_names(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(preset_names())}{hint}")
    tree = dict(_preset_tree(preset))
    below = preset_layers(tree.pop("extends")) if "extends" in tree else []
    return [*below, Layer(f"preset {preset}", {**tree, "preset": preset})]


def own_layers(path: Path | None = None, assignments: Sequence[str] = ()) -> list[Layer]:
    """Return what a user lays over: the YAML at `path`, then `key=value` words.

    Raises:
        ConfigError: The file is missing or not YAML; a word is not an assignment, or holds a secret.
    """
    layers = [] if path is None else [Layer(f"--config {path}", _read_yaml(path))]
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        assigned = merge(assigned, _parse_assignment(assignment))
    return [*layers, Layer("--set", assigned)] if assigned else layers


def named_preset(layers: Iterable[Layer]) -> str | None:
    """Return the preset that the last of some layers names, None if none does."""
    named = laid(layers).get("preset")
    return None if named is None else str(named)


def laid(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return the tree that the layers make, each over those before it."""
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = merge(tree, layer.tree, _OF_FILE)
    return tree


def lay_over(tree: Mapping[str, Any], path: Path | None = None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Return a tree with the YAML at `path` and `key=value` words laid over it, words last; raises as `own_layers`."""
    return laid([Layer("", tree), *own_layers(path, assignments)])


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """Return `tree` as a `RunConfig`.

    Raises:
        ConfigError: With one line for each mistake: the key, the value given, what is allowed, the nearest known key.
    """
    tree, _ = _with_file(tree, "composing", "bank", read_bank)
    tree, uri = _with_file(tree, "filtering", "fitted", read_fitted)
    config = validate_as(RunConfig, tree, fitted=uri)
    if config.composing is None or config.filtering.fitted_values.posterior is not None:
        return config
    # No posterior was fitted for this run's models, so a shipped one is used. It is for any captioner.
    shipped = _shipped(config)
    part = shipped if config.filtering.fitted is None else {"values": {"posterior": shipped["values"]["posterior"]}}
    return validate_as(RunConfig, merge(tree, {"filtering": {"fitted": part}}), fitted=uri)


def composes_for_any_captioner(config: RunConfig) -> bool:
    """Return whether a run composes with the shipped weights for any captioner, not yet in the units of its scores."""
    if config.composing is None:
        return False
    return config.filtering.fitted_values.posterior == PosteriorConfig(**_shipped(config)["values"]["posterior"])


def _shipped(config: RunConfig) -> dict[str, Any]:
    """Return the shipped weights for any captioner, of what a run composes."""
    is_of_photographs = config.composing is not None and config.composing.places == "photographs"
    return for_any_captioner(is_heard=config.captions.listening is not None, is_of_photographs=is_of_photographs)


def _with_file(
    tree: Mapping[str, Any], section: str, name: str, read: Callable[[str, object], dict[str, Any]]
) -> tuple[Mapping[str, Any], str]:
    """Return the tree with what `read` finds in the file that a part names, if it was not read yet; and its uri."""
    # Files are read here and not by the pydantic model: it parses headers of strangers too, which may open no file. A
    # uri with a secret is left to the model, which refuses it without repeating it.
    part = tree[section].get(name) if isinstance(tree.get(section), Mapping) else None
    uri = part.get("uri") if isinstance(part, Mapping) and "values" not in part else None
    if isinstance(part, Mapping) and isinstance(uri, str) and secret_in(uri, None) is None:
        return merge(tree, {section: {name: read(uri, part.get("sha256"))}}), uri
    return tree, ""


def validate_as(model: type[_Model], tree: Mapping[str, Any], *, fitted: str = "") -> _Model:
    """Return `tree` as the given model of a configuration; raises as `validate`, and names the file `fitted`."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(item, model, fitted) for item in error.errors(include_url=False)]
        raise ConfigError("the configuration is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from None


def config_hash(config: RunConfig) -> str:
    """Return the sha256 of the tree as canonical JSON, 64 hex digits.

    A preset keeps the hash that it had in 0.5, whose setting `placement.accept_domain` was off.
    """
    tree = config.model_dump(mode="json")
    tree["placement"]["accept_domain"] = False
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def merge(base: Mapping[str, Any], over: Mapping[str, Any], of_file: Collection[str] = ()) -> dict[str, Any]:
    """Return `base` with `over` laid on top: mappings merge key by key, everything else replaces.

    Where `over` names another `uri`, the keys `of_file` of the file before go too.
    """
    is_same = over.get("uri", base.get("uri")) == base.get("uri")
    merged = {key: value for key, value in base.items() if is_same or key not in of_file}
    for key, value in over.items():
        if isinstance(below := merged.get(key), Mapping) and isinstance(value, Mapping):
            value = merge(below, value, of_file)
        merged[key] = value
    return merged


@cache
def _text_keys(model: type[BaseModel] = RunConfig, section: str = "") -> frozenset[str]:
    """The keys whose values are texts, such as `weights.uri`: name and section, as trees of other models have them."""
    keys = set[str]()
    for name, info in model.model_fields.items():
        if info.annotation in (str, str | None):
            keys.add(f"{section}{name}")
        for below in (info.annotation, *get_args(info.annotation)):
            if isinstance(below, type) and issubclass(below, BaseModel):
                keys |= _text_keys(below, f"{name}.")
    return frozenset(keys)


@cache
def _preset_tree(preset: str) -> Mapping[str, Any]:
    text = (resources.files("pseudoris.schemas") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with TextIOWrapper(open_linked(path), encoding="utf-8") as file:
            tree = parse_yaml(file.read(MAX_LETTERS + 1))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {fault_of(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no keys. Give settings with their keys, such as `masks:`")
    return tree


def _parse_assignment(assignment: str) -> dict[str, Any]:
    key, equals, text = assignment.partition("=")
    # Secrets are looked for first, because the messages below repeat the assignment.
    secret = next(secrets_in({key.strip(): text}, None), None) or secret_in(assignment, None)
    if secret is not None:
        raise ConfigError(f"--set {secret}")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r} is not of the form key=value, such as masks.points_per_side=16")
    names = key.strip().split(".")
    # A path is taken literally: YAML would read `[a].json` as a list, and ` #1` as a comment.
    is_literal = ".".join(names[-2:]) in _text_keys() and text.strip() not in _NULLS and text.strip()[:1] not in "'\""
    try:
        value = text.strip() if is_literal else parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value {_cut(text)!r} cannot be read as YAML: {fault_of(error)}") from None
    if len(names) > MAX_LEVELS:
        raise ConfigError(f"--set {key[:_SHOWN_LETTERS]}…: a key has at most {MAX_LEVELS} names")
    tree: Any = value
    for name in reversed(names):
        tree = {name: tree}
    return dict(tree)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}…"


def _explain(item: Mapping[str, Any], model: type[BaseModel], fitted: str) -> str:
    key, given = _cut(".".join(str(part) for part in item["loc"])), item["input"]
    in_file = bool(fitted) and item["loc"][:3] == ("filtering", "fitted", "values")
    remedy = f" (in {fitted}: `pseudoris calibrate --to` writes such a file)" if in_file else ""
    if item["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        near = [] if in_file else _near(key, [each.key for each in settings(model)])
        if not near and not in_file and item["loc"][0] not in model.model_fields:
            return f"{key}: unknown key. The groups are {', '.join(model.model_fields)}"
        return f"{key}: unknown key" + (f"; did you mean {' or '.join(near[:_SHOWN_KEYS])}?" if near else remedy)
    if item["type"] == "missing":
        return f"{key}: missing{remedy}"
    shown = "" if isinstance(given, Mapping) else f" (got {_cut(repr(given))})"
    return f"{key or 'config'}: {item['msg'].removeprefix('Value error, ')}{shown}{remedy}"


def _near(key: str, names: Sequence[str]) -> list[str]:
    """Return the known keys that end as `key` does, else the most similar one, else those with a slip in their last."""
    last = key.rpartition(".")[2]
    near = [name for name in names if f".{name}".endswith(f".{key}")]
    near = near or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return near or [name for name in names if difflib.get_close_matches(last, [name.rpartition(".")[2]], cutoff=0.8)]


# Matches a line of a model's source code that defines a field.
_FIELD: Final = re.compile(r"    (\w+): ")


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the configuration, or a section.

    Attributes:
        path: Its names from the root.
        section: The model of a section, else None.
        default: As a JSON value; None too if a preset must set it.
        reason: Why it has that value, or what it does.
    """

    path: tuple[str, ...]
    section: type[BaseModel] | None
    default: Any
    reason: str

    @property
    def key(self) -> str:
        """Its dotted name."""
        return ".".join(self.path)

    def value(self, tree: Any) -> Any:
        """Return its value in a dumped configuration; None if the section that it is in is off."""
        for name in self.path:
            tree = None if tree is None else tree.get(name)
        return tree


def settings(model: type[BaseModel] = RunConfig, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield all settings in order, each section before what it holds."""
    reasons = _reasons(model)
    for name, info in model.model_fields.items():
        here, options = (*path, name), get_args(info.annotation)
        # An optional section is a union with None, so its class is looked for among the members of the union.
        types = [each for each in (options if type(None) in options else (info.annotation,)) if isinstance(each, type)]
        section = next((each for each in types if issubclass(each, BaseModel) or is_dataclass(each)), None)
        if section is None:
            default = info.get_default(call_default_factory=True)
            default = None if default is PydanticUndefined else to_jsonable_python(default)
            yield Setting(here, None, default, reasons.get(name, ""))
        elif issubclass(section, BaseModel):
            summary = (inspect.getdoc(section) or "").partition("\n")[0]
            yield Setting(here, section, None, reasons.get(name) or summary)
            yield from settings(section, here)


@cache
def _reasons(model: type[BaseModel]) -> Mapping[str, str]:
    """Return by field the comment that stands directly above it."""
    found: dict[str, str] = {}
    for each in reversed([each for each in model.__mro__ if issubclass(each, BaseModel) and each is not BaseModel]):
        comment: list[str] = []
        for line in inspect.getsource(each).splitlines():
            if line.strip().startswith("# "):
                comment.append(line.strip()[2:])
                continue
            if field := _FIELD.match(line):
                found[field[1]] = " ".join(comment)
            comment = []
    return found


def shown_config(layers: Sequence[Layer]) -> str:
    """Return a configuration as YAML that `--config` takes: each key with where it was set, and its reason.

    What a section holds that is off is a comment. Layers that make no valid configuration raise a ConfigError.
    """
    tree = validate(laid(layers)).model_dump(mode="json")
    lines = []
    for each in settings():
        above = replace(each, path=each.path[:-1]).value(tree)
        value = each.default if above is None else above.get(each.path[-1], each.default)
        is_open = each.section is not None and (above is None or value is not None)
        start = "  " * (len(each.path) - 1) + ("# " if above is None else "") + f"{each.path[-1]}:"
        where = next((layer.name for layer in reversed(layers) if _holds(layer.tree, each.path)), "default")
        shown = "" if is_open else f" {json.dumps(value, ensure_ascii=False)}"
        lines.append(f"{start}{shown}  # {where}. {each.reason}\n")
    return "".join(lines)


def _holds(tree: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file for `--config`, which may set any keys, with each key's reason."""
    schema = RunConfig.model_json_schema()
    parts = schema["$defs"]
    # The type in the schema is a string, because a file writes a condition as a string.
    parts["KeepCondition"] = {"type": "string", "description": "Such as `correctness > 0.2`."}
    homes: dict[tuple[str, ...], dict[str, Any]] = {(): schema}
    for each in settings():
        homes[each.path[:-1]]["properties"][each.path[-1]]["description"] = each.reason
        if each.section is not None:
            homes[each.path] = parts[each.section.__name__]
    for part in (schema, *parts.values()):
        part.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
