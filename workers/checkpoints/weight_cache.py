"""Which weights others publish, and the folder on this machine where downloaded ones lie.

Called by the other modules of this folder. By uri it knows a published file's place, licence, size and digest, and asks
no network. Sizes and digests must be those of the publishers: a downloaded file is compared with them. A digest that
was recorded at the first download must never change, so that a run never continues with other bytes than it began with.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.untrusted import open_regular, parse_json
from pseudoris.primitives.uris import named_path
from pseudoris.schemas.config import WeightsConfig

OPEN_CLIP_PREFIX: Final = "open_clip:"
RANDOM_PREFIX: Final = "random:"
# A file at a relative path below this folder is also looked for in the cache of weights.
CHECKPOINTS_FOLDER: Final = "checkpoints"
SEE_SOURCE: Final = "see the source"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A weights file that somebody else publishes."""

    # Maps a path relative to the cache to a url or to a name in `repo`. The first file that exists is used.
    files: Mapping[str, str]
    # `repo` is `owner/name` on the Hugging Face hub, empty for a url. `revision` is a branch or commit on the hub.
    repo: str = ""
    revision: str = "main"
    licence: str = SEE_SOURCE
    # The file must have this size and digest. None accepts any: it is not known before the file is fetched.
    size_bytes: int | None = None
    sha256: str | None = None
    # Each request has these headers. `Authorization` goes only to the url's own host.
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The first of its paths relative to the cache."""
        return next(iter(self.files))

    @property
    def url(self) -> str:
        """From where a person can download the first of its files."""
        first = self.files[self.name]
        if not self.repo:
            return first
        # huggingface_hub is imported here and below, because it loads a web client, and the core lacks it.
        with suppress(ImportError):
            from huggingface_hub import hf_hub_url

            return hf_hub_url(self.repo, first, revision=self.revision)
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision or 'main'}/{first}"

    def hub_copy(self) -> Path | None:
        """Return the file in the cache of the hub's own library, None if it is not there."""
        with suppress(ImportError):
            from huggingface_hub import try_to_load_from_cache

            for filename in self.files.values() if self.repo else ():
                found = try_to_load_from_cache(self.repo, filename, revision=self.revision)
                if isinstance(found, str):
                    return Path(found)
        return None

    def name_at(self, path: Path) -> str:
        """Return which of its paths relative to the cache a file found at `path` has; by default the first."""
        return next((name for name in self.files if Path(name).name == path.name), self.name)


_AUTHORS_COCA: Final = "laion_cc3m/checkpoints/epoch_1.pt"
# open_clip gives files of weights these names. Source: HF_WEIGHTS_NAME and HF_SAFE_WEIGHTS_NAME of its constants.
_DEFAULT_NAME: Final = "open_clip_pytorch_model.bin"
_DEFAULT_SAFE_NAME: Final = "open_clip_model.safetensors"
# Maps SAM's files to sha256 and size, None if not known. Source of links and licence: segment-anything's README.
_SAM_FILES: Final[Mapping[str, tuple[str, int | None]]] = {
    "sam_vit_h_4b8939.pth": ("a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879),
    "sam_vit_l_0b3195.pth": ("3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", None),
    "sam_vit_b_01ec64.pth": ("ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383),
}
# Maps a path below `checkpoints/` to its published file.
CHECKPOINTS: Final[Mapping[str, PublishedFile]] = {
    f"pseudo-ris/{_AUTHORS_COCA}": PublishedFile(
        {f"pseudo-ris/{_AUTHORS_COCA}": _AUTHORS_COCA},
        "SeonghoonYu/pseudo-ris",
        revision="8f39ff9f8a9f9f3fab0ff8cb9db7f377d23c8a07",
    ),
    **{
        name: PublishedFile(
            {name: f"https://dl.fbaipublicfiles.com/segment_anything/{name}"},
            licence="Apache-2.0",
            size_bytes=size_bytes,
            sha256=sha256,
        )
        for name, (sha256, size_bytes) in _SAM_FILES.items()
    },
}
# Maps a preset's tag to its repository. It is copied from open_clip, because importing open_clip takes seconds.
TAG_REPOS: Final[Mapping[str, str]] = {
    "coca_ViT-B-32/laion2b_s13b_b90k": "laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
    "coca_ViT-L-14/laion2b_s13b_b90k": "laion/CoCa-ViT-L-14-laion2B-s13B-b90k",
    "RN50-quickgelu/openai": "timm/resnet50_clip.openai",
    "ViT-B-16-quickgelu/openai": "timm/vit_base_patch16_clip_224.openai",
    "ViT-B-16/laion2b_s34b_b88k": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "ViT-B-16/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
}
# Only licences that are certain are listed: LAION's CoCa models and OpenAI's CLIP have MIT.
_HUB_LICENCES: Final = {
    "laion/CoCa-ViT-B-32-laion2B-s13B-b90k": "MIT",
    "laion/CoCa-ViT-L-14-laion2B-s13B-b90k": "MIT",
    "timm/resnet50_clip.openai": "MIT",
    "timm/vit_base_patch16_clip_224.openai": "MIT",
}


def random_seed(weights: WeightsConfig) -> int | None:
    """Return the seed of `random:<seed>`, else None."""
    if not weights.uri.startswith(RANDOM_PREFIX):
        return None
    text = weights.uri.removeprefix(RANDOM_PREFIX)
    # At most 18 digits are accepted, because a seed of torch has 64 bits.
    if not text.isdecimal() or len(text) > 18:
        raise ConfigError(
            f"weights '{RANDOM_PREFIX}{text[:24]}': '{RANDOM_PREFIX}' needs a whole number, of at most 18 digits"
        )
    return int(text)


def published_file(weights: WeightsConfig) -> PublishedFile | None:
    """Return what is known of the published file behind the weights; None if nothing is.

    Nothing is known of a path or url of the user's own, of shipped files and of `random:<seed>`.
    """
    if weights.uri.startswith(OPEN_CLIP_PREFIX):
        return open_clip_file(weights)
    return next(map(CHECKPOINTS.get, _checkpoint_names(weights.uri)), None)


def cached_names(weights: WeightsConfig) -> tuple[str, ...]:
    """Return the paths, relative to the cache, at which the weights may lie there; the first that exists is used."""
    published = published_file(weights)
    return _checkpoint_names(weights.uri) if published is None else tuple(published.files)


def _checkpoint_names(uri: str) -> tuple[str, ...]:
    """Return what follows `checkpoints/` in a relative path; nothing for any other uri, and for one that leads out."""
    path = PurePosixPath(uri)
    if "://" in uri or path.parts[:1] != (CHECKPOINTS_FOLDER,) or len(path.parts) == 1 or ".." in path.parts:
        return ()
    return (str(path.relative_to(CHECKPOINTS_FOLDER)),)


def split_tag(weights: WeightsConfig) -> tuple[str, str]:
    """Return model name and tag of `open_clip:<model>/<tag>`."""
    require_extra("run", f"weights '{weights.uri}'")
    # open_clip is imported here, because it takes seconds to load, and only a hub tag needs it.
    from open_clip.pretrained import is_pretrained_cfg, list_pretrained_tags_by_model

    name, _, tag = weights.uri.removeprefix(OPEN_CLIP_PREFIX).partition("/")
    if not is_pretrained_cfg(name, tag):
        missing = "open_clip has no such model and tag" if tag else f"/TAG is missing behind '{name}'"
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none. open_clip.list_pretrained() lists all models"
        raise ConfigError(f"weights '{weights.uri}': {missing}; tags of '{name}': {tags}")
    return name, tag


def open_clip_file(weights: WeightsConfig) -> PublishedFile:
    """The hub's file of a tag, chosen as open_clip does: safetensors, if the repository has it, before a pickle."""
    known = TAG_REPOS.get(weights.uri.removeprefix(OPEN_CLIP_PREFIX))
    repo, filename = known or "", _DEFAULT_NAME
    if known is None:
        require_extra("run", f"weights '{weights.uri}'")
        from open_clip.pretrained import get_pretrained_cfg

        repo, _, named = get_pretrained_cfg(*split_tag(weights)).get("hf_hub", "").rpartition("/")
        filename = named or _DEFAULT_NAME
    if not repo:
        raise ConfigError(
            f"weights '{weights.uri}': open_clip names no repository of the hub for this tag. Download the file, and "
            "set the stage's weights.uri, such as captions.weights.uri, to its path"
        )
    stem, _, ending = filename.rpartition(".")
    safe = _DEFAULT_SAFE_NAME if filename == _DEFAULT_NAME else f"{stem}.safetensors"
    filenames = (safe, filename) if ending in {"bin", "pth"} else (filename,)
    return PublishedFile(
        {f"{repo}/{each}": each for each in filenames}, repo, licence=_HUB_LICENCES.get(repo, SEE_SOURCE)
    )


logger = logging.getLogger(__name__)

FOLDER_VARIABLE: Final = "PSEUDORIS_WEIGHTS"
PINS_NAME: Final = "pins.json"
_LOCKS_FOLDER: Final = ".locks"
_NAME_ANOTHER: Final = f"Set {FOLDER_VARIABLE} to a folder that you can write to"


@dataclass(frozen=True, slots=True)
class Pin:
    """What a published file was when it was first fetched; `revision` is its commit, if its repository has any."""

    sha256: str
    size_bytes: int
    revision: str = ""


@dataclass(frozen=True, slots=True)
class WeightCache:
    """A folder of weights, at an absolute path that need not exist.

    Its methods raise a `ConfigError` if other users may write to it, or it cannot be written or its record not read.
    """

    folder: Path
    # Other users may write to the folder only if the user named it, because a team may share such a folder.
    is_named: bool

    def path(self, name: str) -> Path:
        """Return where the file of that name lies, or would lie."""
        found: os.stat_result | None = None
        if not self.is_named:
            with suppress(OSError):
                found = self.folder.lstat()
        if found and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022):
            raise ConfigError(
                f"{self.folder} holds downloaded weights, but is not a folder that only this user can write to "
                f"(owner {found.st_uid}, {stat.filemode(found.st_mode)}): remove it, or set {FOLDER_VARIABLE} to a "
                "folder that you trust"
            )
        return self.folder / name

    def make_folder(self, name: str) -> Path:
        """Return `path(name)`, in a folder that exists."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"weights cannot be stored in {self.folder}: {error}. {_NAME_ANOTHER}") from error
        return path

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write, which has its name after the block unless that raises. Hold its lock meanwhile."""
        target = self.make_folder(name)
        partial = target.with_name(f"{target.name}.copy")
        with open_regular(partial, "wb") as file:
            try:
                yield file
                file.flush()
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a file's lock for the block; another process that writes the file waits, and then finds it."""
        from filelock import FileLock, Timeout

        path = self.make_folder(f"{_LOCKS_FOLDER}/{name.replace('/', '--')}.lock")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process writes %s: waiting for it", self.folder / name)
            lock.acquire()
        except OSError as error:
            raise ConfigError(f"{path} cannot be locked: {error.strerror}. {_NAME_ANOTHER}") from error
        try:
            yield
        finally:
            lock.release()

    def pins(self) -> Mapping[str, Pin]:
        """Return what was recorded of fetched files, by name."""
        path = self.path(PINS_NAME)
        try:
            with open_regular(path) as file:
                tree: dict[str, Any] = parse_json(file.read())
            return {name: Pin(**pin) for name, pin in tree.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}, the record of the digests of downloaded weights, cannot be read ({error}): restore it, or "
                "delete it, and the weights are taken as they are at the next download"
            ) from error

    def pin(self, name: str) -> Pin | None:
        """Return what was recorded of a file here, else in the user's own cache; None if neither knows it."""
        found = self.pins().get(name)
        return found if found is not None or self == user_cache() else user_cache().pins().get(name)

    def known_sha256(self, published: PublishedFile, name: str) -> str | None:
        """Return the digest of a published file under one of its names: as published, else as it was first fetched."""
        pin = None if published.sha256 else self.pin(name)
        return published.sha256 if pin is None else pin.sha256

    def add_pin(self, name: str, pin: Pin) -> None:
        """Record what a file is; a file that is recorded keeps its record."""
        with self.lock(PINS_NAME):
            pins = {**{name: pin}, **self.pins()}
            text = json.dumps({each: asdict(pin) for each, pin in sorted(pins.items())}, indent=1)
            with self.new_file(PINS_NAME) as file:
                file.write(f"{text}\n".encode())


def user_cache() -> WeightCache:
    """Return the cache of this process: the folder that `PSEUDORIS_WEIGHTS` names, else the user's own."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return WeightCache(named_path(named), is_named=True)
    # A relative `XDG_CACHE_HOME` is ignored, as the XDG specification says.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        base = base.expanduser()
        base = base if base.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError(f"this user has no home folder: set {FOLDER_VARIABLE} to a folder for weights") from None
    return WeightCache(base / "pseudoris" / "weights", is_named=False)


def found_files(weights: WeightsConfig) -> Iterator[tuple[str, Path]]:
    """Yield the files of a path or hub tag that this machine has, the one to use first, by their names in a cache.

    They lie where the path says, in the user's cache, and in that of the hub's own library. Nothing is downloaded.
    """
    names, published = cached_names(weights), published_file(weights)
    if not weights.uri.startswith(OPEN_CLIP_PREFIX) and Path(weights.uri).is_file():
        yield (names[0] if names else weights.uri), Path(weights.uri)
    yield from ((name, path) for name in names if (path := user_cache().path(name)).is_file())
    if published is not None and (copy := published.hub_copy()) is not None:
        yield published.name_at(copy), copy
