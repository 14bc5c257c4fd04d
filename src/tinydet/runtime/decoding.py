"""Images of any kind to pixels: `[H, W, 3]` uint8 RGB, upright."""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinydet.errors import InputError
from tinydet.records import upright_rgb

Pixels = NDArray[np.uint8]
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | Pixels
_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_EXIF_WITHIN = 1 << 16


def decode(image: ImageLike) -> Pixels:
    """The pixels of a file, of a file's bytes, of a PIL image, or of an array that holds them already.

    Raises:
        InputError: no such file, truncated, not an image, or an array of another shape or type.
    """
    match image:
        case np.ndarray():
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise InputError(f"an array of {image.shape} {image.dtype}; expected [H, W, 3] uint8, RGB")
            return image
        case Image.Image():
            try:
                return np.asarray(upright_rgb(image))
            except (OSError, ValueError, SyntaxError) as error:
                raise InputError(f"this image: {error}") from error
        case bytes() | bytearray() | memoryview():
            return _decode_bytes(bytes(image), "these bytes")
        case _:
            path = Path(image)
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                raise InputError(f"{path}: no such image") from None
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
            return _decode_bytes(content, str(path))


def _decode_bytes(content: bytes, where: str) -> Pixels:
    # An orientation is rare, and only Pillow knows it. Where simplejpeg complains, Pillow decides what is an error.
    simplejpeg = _simplejpeg() if content.startswith(_JPEG) and _EXIF not in content[:_EXIF_WITHIN] else None
    if simplejpeg is not None:
        try:
            return simplejpeg.decode_jpeg(content, strict=True)  # type: ignore[no-any-return]
        except ValueError:
            pass
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return np.asarray(upright_rgb(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: not a readable image: {error}") from error


@cache
def _simplejpeg() -> Any:
    """The module; None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
