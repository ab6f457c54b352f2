"""A model folder of `transformers`, named by path or MODEL@COMMIT: its files, config and digests.

Called by `weight_files.py`, `hf_models.py`, the engines that read folders, and for a run's identity by `stages.py`.
Imports neither torch nor transformers. A folder may come from a stranger: only files of known names may be used, and
only what has a digest is shown to a loader; pickles, and a folder that brings its own code, are refused.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import install
from pseudoris.primitives.untrusted import file_sha256, open_linked, parse_json, read_regular
from pseudoris.workers.checkpoints.weight_cache import PublishedFile, WeightCache, user_cache
from pseudoris.workers.checkpoints.weight_headers import check_weight_header

if TYPE_CHECKING:
    from pseudoris.workers.checkpoints.download import OnProgress

CONFIG_NAME: Final = "config.json"
INDEX_NAME: Final = "model.safetensors.index.json"
SINGLE_NAME: Final = "model.safetensors"
# These files are read beside the weights. Each part has a digest of its own in the identity. Source: the names under
# which `save_pretrained` of transformers 5.24 writes, and under which older versions wrote.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "config": (CONFIG_NAME, "generation_config.json", INDEX_NAME),
    "tokenizer": (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    ),
    "chat_template": ("chat_template.jinja", "chat_template.json"),
    "processor": ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
}
# These are the most bytes of a file and of a shard of weights. The largest known have 33 MB (a tokenizer) and 50 GB.
_MAX_FILE_BYTES: Final = 2**27
_MAX_SHARD_BYTES: Final = 2**38
_NUM_SHOWN: Final = 4
# Models from folders use this attention: flash takes no mask of four dimensions, as a tree needs, and eager is slower.
ATTENTION: Final = "sdpa"
# From this version on, models of transformers take the argument `cache`.
_FIRST_VERSION: Final = (5, 24)
_SHARD_NAME: Final = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
_HUB_NAME: Final = re.compile(r"(\w[\w.-]*/\w[\w.-]*)@([^/]+)", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def names_folder(uri: str) -> bool:
    """Return whether a weights uri names a model folder: MODEL@COMMIT, or a folder that exists."""
    return _HUB_NAME.fullmatch(uri) is not None or Path(uri).is_dir()


def hub_model(uri: str) -> tuple[str, str] | None:
    """Return repository and commit of MODEL@COMMIT, None for anything else; a branch or tag is refused."""
    found = _HUB_NAME.fullmatch(uri)
    if found is None or (not _COMMIT.fullmatch(found[2]) and Path(uri).is_dir()):
        return None
    if not _COMMIT.fullmatch(found[2]):
        raise ConfigError(
            f"model '{uri}': '{found[2]}' is not a commit, and a branch or tag may name other files tomorrow. Give the "
            f"40 hex digits of one of https://huggingface.co/{found[1]}/commits/main"
        )
    return found[1], found[2]


def check_installed() -> None:
    """Raise a ConfigError with the remedy unless a known version of `transformers` is installed; imports nothing."""
    remedy = f"install it: {install('hf')}"
    try:
        found = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        raise ConfigError(f"a model folder needs transformers, which is not installed; {remedy}") from None
    numbers = tuple(int(number) for number in found.split(".")[:2])
    if not _FIRST_VERSION <= numbers < (_FIRST_VERSION[0] + 1,):
        raise ConfigError(f"transformers {found} is installed, and a model folder needs 5.24 or a later 5; {remedy}")


def shard_names(index: Any, uri: str) -> tuple[str, ...]:
    """Return the shards that the content of a `model.safetensors.index.json` names, sorted."""
    named = index.get("weight_map") if isinstance(index, dict) else None
    names = {str(name) for name in named.values()} if isinstance(named, dict) else set()
    if not names or not all(map(_SHARD_NAME.fullmatch, names)):
        raise ConfigError(f"model '{uri}': {INDEX_NAME} does not name plain .safetensors files: save the model again")
    return tuple(sorted(names))


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose files are whole; made by `open`.

    Attributes:
        uri: As the user names it.
        files: Names by part: `weights`, and the parts of `NAMES` of which the folder has a file.
        config: The content of `config.json`.
        num_parameters: Elements of all tensors.
        recorded: sha256 by name, where the download recorded it.
    """

    uri: str
    path: Path
    files: Mapping[str, tuple[str, ...]]
    config: Mapping[str, Any]
    num_parameters: int
    recorded: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, uri: str, cache: WeightCache | None = None) -> ModelFolder:
        """Return the folder at a local path, or of MODEL@COMMIT in `cache` or in the cache of the hub's own library.

        Nothing is downloaded. Shards are checked for their length, not yet for their digests.

        Raises:
            ConfigError: There is no such folder; a file is missing, cut, too large or no file; it brings its own code;
                or its weights are not safetensors.
        """
        path, recorded = _located(uri, cache or user_cache())
        present = {entry.name for entry in path.iterdir()}
        files = {part: tuple(name for name in names if name in present) for part, names in NAMES.items()}
        contents = {name: _content(path / name, uri) for names in files.values() for name in names}
        config = contents.get(CONFIG_NAME)
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ConfigError(f"model '{uri}': {path} has no {CONFIG_NAME} with a model_type: name a saved model")
        if "adapter_config.json" in present:
            raise ConfigError(f"model '{uri}': {path} holds an adapter: merge it into the model, and save that")
        # If a folder has an index of shards and a single file, transformers reads the single file.
        is_sharded = INDEX_NAME in contents and SINGLE_NAME not in present
        shards = shard_names(contents[INDEX_NAME], uri) if is_sharded else (SINGLE_NAME,)
        if absent := [name for name in shards if name not in present]:
            pickles = sorted(name for name in present if name.endswith((".bin", ".pth", ".pt")))
            remedy = ", which are not loaded: use a commit with safetensors"
            why = f" It has pickles ({pickles[0]}){remedy}" if pickles else ""
            shown = ", ".join(absent[:_NUM_SHOWN])
            raise ConfigError(f"model '{uri}': {path} lacks {len(absent)} of its files with weights: {shown}.{why}")
        num_parameters = sum(_num_elements(path / name, uri) for name in shards)
        parts = {"weights": shards, **{part: names for part, names in files.items() if names}}
        return cls(uri, path, parts, config, num_parameters, recorded)

    @functools.cached_property
    def digests(self) -> Mapping[str, str]:
        """By part, the sha256 over the names and sha256 of its files; one that is not as downloaded is refused."""
        return {part: _over({name: self._digest(name) for name in names}) for part, names in self.files.items()}

    @property
    def sha256(self) -> str:
        """The digest of the whole folder."""
        return _over(self.digests)

    @property
    def identity(self) -> dict[str, str]:
        """What a run's identity says of it beside its digest and the versions of `packages`: digests, and attention."""
        return {**self.digests, "attention": ATTENTION}

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions that compute it, beside those of every run."""
        return ("transformers", "tokenizers", *(("timm",) if "timm_wrapper" in str(self.config) else ()))

    @contextmanager
    def view(self) -> Iterator[Path]:
        """Give a folder that shows `files` alone, for the block: no loader finds a file that has no digest."""
        with tempfile.TemporaryDirectory(prefix="pseudoris-model-") as view:
            for name in (name for names in self.files.values() for name in names):
                (Path(view) / name).symlink_to((self.path / name).resolve())
            yield Path(view)

    def _digest(self, name: str) -> str:
        path = self.path / name
        recorded, stamp = self.recorded.get(name, path.resolve().name), path.stat()
        found = _cached_sha256(path, stamp.st_ino, stamp.st_size, stamp.st_mtime_ns)
        if _SHA256.fullmatch(recorded) and recorded != found:
            raise ConfigError(
                f"model '{self.uri}': {path} has sha256 {found}, but {recorded} was downloaded. Delete that file, and "
                f"get it again: pseudoris weights get {self.uri}"
            )
        return found


def fetch_folder(
    uri: str, cache: WeightCache, *, on_progress: Callable[[str], OnProgress] = lambda _: lambda *_: None
) -> Path:
    """Return the folder of MODEL@COMMIT in `cache`, after downloading those of its files that are missing or changed.

    `on_progress` gives, by a file's name in the cache, what is told of its download. `config.json` comes last: a folder
    with it is whole. Raises as `fetch`, and if the repository has no such commit, is gated, or has no safetensors.
    """
    # These are imported here, because they load all clients of the hub, which only a download needs.
    from huggingface_hub import HfApi, constants

    from pseudoris.workers.checkpoints.download import HUB_TIMEOUT_S, ask_hub, check_reachable, fetch

    repo, commit = hub_model(uri) or ("", "")

    def get(name: str) -> Path:
        published = PublishedFile({f"{uri}/{name}": name}, repo, revision=commit)
        places = (user_cache().path(published.name), published.hub_copy())
        copies = [(published.name, copy) for copy in places if copy is not None and copy.is_file()]
        return fetch(published, cache, copies=copies, on_progress=on_progress(published.name))

    # If the folder is complete, its record names all files, and the hub is asked only for a file that was changed.
    pins = {**user_cache().pins(), **cache.pins()}
    names = [name.removeprefix(f"{uri}/") for name in pins if name.startswith(f"{uri}/")]
    if CONFIG_NAME not in names:
        check_reachable(constants.ENDPOINT)
        ask = partial(HfApi().model_info, repo, revision=commit, timeout=HUB_TIMEOUT_S)
        present = {each.rfilename for each in ask_hub(f"model '{uri}'", repo, ask).siblings or ()}
        names = [name for part in NAMES.values() for name in part if name in present]
        if SINGLE_NAME in present:
            names.append(SINGLE_NAME)
        elif INDEX_NAME in present:
            names += shard_names(parse_json(read_regular(get(INDEX_NAME))), uri)
        else:
            raise ConfigError(f"model '{uri}' has no weights as safetensors, and pickles are not loaded: take another")
    for name in sorted(names, key=lambda name: (name == CONFIG_NAME, name)):
        get(name)
    return cache.path(uri)


def _located(uri: str, cache: WeightCache) -> tuple[Path, dict[str, str]]:
    """Return the folder of a model, and the sha256 that were recorded of its files by name."""
    model = hub_model(uri)
    if model is None:
        if Path(uri).is_dir():
            return Path(uri), {}
        raise ConfigError(f"model '{uri}': no such folder. Give the path of a saved model, or OWNER/NAME@COMMIT")
    # The config is fetched last, so a folder that has a config is complete.
    if (cache.path(uri) / CONFIG_NAME).exists():
        pins = {name: pin.sha256 for name, pin in cache.pins().items() if name.startswith(f"{uri}/")}
        return cache.path(uri), {name.removeprefix(f"{uri}/"): sha256 for name, sha256 in pins.items()}
    with suppress(ImportError):
        from huggingface_hub import try_to_load_from_cache

        of_hub = try_to_load_from_cache(model[0], CONFIG_NAME, revision=model[1])
        if isinstance(of_hub, str):
            return Path(of_hub).parent, {}
    raise ConfigError(f"model '{uri}' is not on this machine. To get it: pseudoris weights get {uri}")


def _content(path: Path, uri: str) -> Any:
    """Return what a JSON file holds, None for another file; refuse what is no file, too large, or names code."""
    with open_linked(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > _MAX_FILE_BYTES:
            raise ConfigError(f"model '{uri}': {path} has {size_bytes:,} bytes, at most {_MAX_FILE_BYTES:,} are read")
        if path.suffix != ".json":
            return None
        try:
            # Large numbers are accepted: transformers writes 10^30 as the length limit of a tokenizer without a limit.
            tree = parse_json(file.read(), takes_large=True)
        except ValueError as error:
            raise ConfigError(f"model '{uri}': {path} is not JSON ({error}): get it again") from error
    if path.name != "tokenizer.json" and _has_key(tree, "auto_map"):
        raise ConfigError(
            f"model '{uri}': {path} has an auto_map, which names code that comes with the model. Such code is never "
            "run. If transformers itself has the class, remove the entry in a copy of the folder"
        )
    return tree


def _has_key(tree: Any, key: str) -> bool:
    """Whether any mapping in it has the key; not recursive, as it may be nested deeper than Python goes."""
    left = [tree]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if key in each:
                return True
            left += each.values()
        elif isinstance(each, list):
            left += each
    return False


def _num_elements(path: Path, uri: str) -> int:
    """Return the elements of the tensors in a shard by its header, which must account for every byte of the file."""
    check_weight_header(path, f"model '{uri}': {path}")
    with open_linked(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        tensors = parse_json(file.read(int.from_bytes(file.read(8), "little")))
    if size_bytes > _MAX_SHARD_BYTES:
        raise ConfigError(f"model '{uri}': {path} has {size_bytes:,} bytes, at most {_MAX_SHARD_BYTES:,} are read")
    return sum(prod(each["shape"]) for name, each in tensors.items() if name != "__metadata__")


def _over(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


# By path and stamp: a run asks for digests twice, and shards have gigabytes.
KNOWN_SHA256: Final = dict[tuple[str | int, ...], str]()


def _cached_sha256(path: Path, *stamp: int) -> str:
    key: tuple[str | int, ...] = (str(path), *stamp)
    if key not in KNOWN_SHA256:
        KNOWN_SHA256[key] = file_sha256(path)
    return KNOWN_SHA256[key]
