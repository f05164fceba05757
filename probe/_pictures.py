"""Pictures: read from any common file as what a viewer shows, and prepared as a network was trained to see them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

MOST_PIXELS = 178_956_970  # where Pillow itself refuses (a decompression bomb)


def read_picture(source: str | Path | Image | NDArray[Any]) -> Image:
    """A picture in RGB with 8 bits a channel, upright, as a viewer shows it.

    Turned as its EXIF data say, transparent parts over white, the first frame of an animation, 16 bits scaled to 8, CMYK,
    palettes and grey converted.

    Args:
        source: A file; or a picture of Pillow; or an array [H, W] or [H, W, 1, 3 or 4] of uint8, uint16 or floats in [0, 1].

    Raises:
        InputError: No such file, no picture, a damaged or a too large one, or an array of another form.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not isinstance(source, (str, Path)):
        return _plain(
            ImageOps.exif_transpose(source) if isinstance(source, Image.Image) else _of_array(source)
        )
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"{path} is a folder, expected a picture" if path.is_dir() else f"no such file: {path}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                turned = ImageOps.exif_transpose(opened)
                turned.load()
                return _plain(turned)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has more than {MOST_PIXELS:,} pixels: make it smaller first") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is no picture that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF)"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged: {str(error) or type(error).__name__}") from error


def source_of(picture: Any) -> str:
    """The file that a picture is read from, "" where it is none."""
    return str(picture) if isinstance(picture, (str, os.PathLike)) else ""


def fitted(picture: Image, most: int) -> tuple[int, int]:
    """Height and width of a picture that is made smaller until neither has more than `most` pixels."""
    part = min(1.0, most / max(picture.size))
    return max(1, round(picture.height * part)), max(1, round(picture.width * part))


def _of_array(source: Any) -> Image:
    import numpy as np
    from PIL import Image

    array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shaped or 0 in array.shape or array.dtype.kind not in "uf":
        raise InputError(
            f"picture: got {array.dtype} {array.shape}, expected [H, W] or [H, W, 1, 3 or 4] of uint8, uint16 or floats"
        )
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError(
                "picture: floats must lie in [0, 1]; divide by the largest value that is possible"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = np.rint(array / 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"picture: got {array.dtype}, expected uint8, uint16 or floats in [0, 1]")
    return Image.fromarray(array)


def _plain(picture: Image) -> Image:
    """In RGB, 8 bits."""
    import numpy as np
    from PIL import Image

    if picture.mode == "F":
        raise InputError("the picture holds floats of unknown range: save it with 8 or 16 bits a channel")
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("the picture has more than 16 bits a channel: save it with 8 or 16")
        picture = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        shown = picture.convert("RGBA")
        ground = Image.new("RGBA", shown.size, "white")
        picture = Image.alpha_composite(ground, shown)
    return picture.convert("RGB")


@dataclass(frozen=True)
class PictureProcessor:
    """How a network sees a picture.

    Attributes:
        size: Side of the square that it sees, in pixels.
        mean: Subtracted from each channel in [0, 1].
        std: Divided by, afterwards.
        shorter: "crop" first makes the shorter side this long.
        fit: "crop" takes the middle square (as classifiers are tested), "stretch" the whole picture whatever its shape,
            "pad" the whole picture with black beside it.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    shorter: int
    fit: str = "crop"

    def __call__(self, picture: Image | NDArray[Any] | str | Path) -> dict[str, torch.Tensor]:
        """`{"pixel_values": [1, 3, size, size]}`, for the model's forward."""
        return {"pixel_values": self.prepared(self.view(picture))}

    def view(self, picture: Image | NDArray[Any] | str | Path) -> NDArray[np.uint8]:
        """What the network sees of a picture, [size, size, 3], before its colours are scaled."""
        import numpy as np
        from PIL import Image

        whole = read_picture(picture)
        seen = whole.resize((self.size, self.size), Image.Resampling.BICUBIC, box=self.box(*whole.size))
        if self.fit == "pad":
            left, top, right, bottom = self.place(*whole.size)
            small = whole.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
            seen = Image.new("RGB", (self.size, self.size))
            seen.paste(small, (left, top))
        return np.array(seen)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture of that size that is seen: left, top, right, bottom in its pixels."""
        if self.fit != "crop":
            return 0.0, 0.0, float(width), float(height)
        side = min(width, height) * min(1.0, self.size / self.shorter)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Where in the square that the network sees the picture lies: left, top, right, bottom in pixels of the square."""
        if self.fit != "pad":
            return 0, 0, self.size, self.size
        part = self.size / max(width, height)
        wide, high = max(1, round(width * part)), max(1, round(height * part))
        left, top = (self.size - wide) // 2, (self.size - high) // 2
        return left, top, left + wide, top + high

    def prepared(self, view: NDArray[np.uint8]) -> torch.Tensor:
        """The square with scaled colours, [1, 3, size, size] float32."""
        import torch

        x = torch.from_numpy(view.transpose(2, 0, 1).copy()).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((x - mean) / std)[None]
