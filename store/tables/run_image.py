"""An image of a run, upright: pixels, masks, expressions, a drawing. `run_reader` gives it to users: it is public."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from pseudoris.images.pixels import decode_upright, loaded_plugins
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError
from pseudoris.primitives.run_lengths import decode_mask
from pseudoris.primitives.templates import html_text, notebook_display
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.store.tables.image_bytes import MOVED

if TYPE_CHECKING:
    from pseudoris.store.tables.annotations import AnnotatedImage

_BLANK_GREY: Final = 221


class ImageExpression(NamedTuple):
    """A candidate of a `RunImage`; `masks` are positions in its `masks`. A missing score is None."""

    text: str
    kept: bool
    masks: tuple[int, ...]
    distinctiveness: float | None
    correctness: float | None


class RunImage:
    """An image of a run; in a notebook it draws itself.

    Attributes:
        key: Name relative to SOURCE, percent-encoded as in the tables.
        height: Upright height in pixels.
        width: Upright width in pixels.
    """

    def __init__(self, record: AnnotatedImage, load: Callable[[], bytes], images: ImagesConfig) -> None:
        """Wire it; `load` reads the encoded bytes, and `images` are the run's settings."""
        self.image_id, self.key, self.height, self.width = record.image_id, record.key, record.height, record.width
        self._record, self._load, self._images = record, load, images

    def __repr__(self) -> str:
        return f"RunImage({self.key!r}, {self.width} x {self.height}, {len(self._record.masks)} masks)"

    @cached_property
    def expressions(self) -> tuple[ImageExpression, ...]:
        """All candidates by mask, and last those that refer to nothing; `kept` says which the run keeps."""
        places = {mask.mask_id: place for place, mask in enumerate(self._record.masks)}
        # An expression of several masks is in the record of each mask, but is listed once.
        said = dict.fromkeys(each for mask in self._record.masks for each in mask.expressions)
        return tuple(
            ImageExpression(
                *(each.text, each.kept, tuple(places[mask] for mask in each.target_mask_ids if mask in places)),
                *(each.distinctiveness, each.correctness),
            )
            for each in (*said, *self._record.untargeted)
        )

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(N, H, W) bool in upright image pixels, in the order of the table."""
        masks = np.zeros((len(self._record.masks), self.height, self.width), np.bool_)
        for mask, record in zip(masks, self._record.masks, strict=True):
            mask[:] = decode_mask(record.rle_counts, self.height, self.width)
        return masks

    @cached_property
    def image(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright.

        Raises:
            ConfigError: The image cannot be read, or is not the one that was annotated.
            TransientError: Storage failed.
        """
        try:
            limits = self._images.to_show(loaded_plugins(self._images.decoder_plugins))
            pixels = decode_upright(self._load(), limits)
            if pixels.shape[:2] != (self.height, self.width):
                raise ImageError("changed", "its size differs from the annotated one")
            return pixels
        except (ImageError, OSError, ConfigError) as error:
            moved = "" if isinstance(error, ConfigError) else f". If the images were moved, {MOVED}"
            raise ConfigError(f"image {self.key} cannot be read: {error}{moved}") from None

    def picture(self, max_side_px: int = 640) -> Image.Image:
        """Return the image with its masks drawn and numbered; raises like `image` and `masks`."""
        return _drawn(self.image, self.masks, max_side_px)

    def show(self) -> None:
        """Display the image, its masks and kept expressions: in the notebook, else as a window of the system."""
        if (display := notebook_display()) is not None:
            display(self)
        else:
            self.picture().show()

    def _repr_html_(self, max_side_px: int = 480, *, with_texts: bool = True) -> str:
        note, masks = "", np.zeros((0, self.height, self.width), np.bool_)
        pixels = np.full((self.height, self.width, 3), _BLANK_GREY, np.uint8)
        try:
            masks = self.masks
            pixels = self.image
        except PseudorisError as error:
            note = f"<br>{html_text(error)}"
        _drawn(pixels, masks, max_side_px).save(data := io.BytesIO(), "JPEG", quality=85)
        source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        shown = html_text(unquote(self.key)).replace("\n", "\\n")
        name = f"{shown}, {self.width} × {self.height}, {len(self._record.masks)} masks"
        head = f'<img src="{source}" alt="{name}"><figcaption>{name}{note}</figcaption>'
        kept = [each for each in self.expressions if each.kept] if with_texts else []
        rows = ""
        for each in kept:
            mark = " ".join(f'<b style="color:{_colour(mask)}">{mask}</b>' for mask in each.masks) or "–"
            rows += f'<tr><td>{mark}</td><td style="text-align:left">{html_text(each.text)}</td></tr>'
        rest = f"<p>{len(kept)} of {len(self.expressions)} candidates are kept.</p>" if with_texts else ""
        return f'<figure style="display:inline-block;margin:0 8px 8px 0">{head}<table>{rows}</table>{rest}</figure>'


def _drawn(pixels: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_], max_side_px: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.BOX)
    labels = []
    for number, mask in enumerate(masks):
        inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
        edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(5)))
        picture.paste(_colour(number), mask=inside.point(lambda value: value // 3))
        picture.paste(_colour(number), mask=edge)
        # The label is at the mask's pixel nearest to the centre, because the centre of a ring is outside of it.
        if len(points := np.argwhere(np.asarray(inside))):
            labels.append((number, points[((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin()]))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for number, (y, x) in labels:
        draw.text((x, y), str(number), "white", font, "mm", stroke_width=2, stroke_fill="black")
    return picture


def _colour(number: int) -> str:
    # Hues differ by the golden angle, so that neighbours in the list of masks have different colours.
    return f"hsl({round(number * 137.508) % 360}, 85%, 55%)"
