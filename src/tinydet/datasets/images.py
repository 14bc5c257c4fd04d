"""Image files: finding them, reading their size from the header alone, and finding damaged pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tinydet.datasets.faults import EMPTY_FILE, MISSING_IMAGE, TRUNCATED_IMAGE, UNREADABLE_IMAGE, reject
from tinydet.records import FLOATING_POINT, Fault

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
_EXIF_ORIENTATION = 0x0112
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageHeader:
    """An image's size as it is shown and as it is stored; they differ where EXIF says that it lies on its side.

    Attributes:
        size_hw: as shown, which is what `Sample.open_image` gives.
        stored_hw: as stored.
        turned: the EXIF orientation changes the picture, by a turn or a mirror.
    """

    size_hw: tuple[int, int]
    stored_hw: tuple[int, int]
    turned: bool


def read_header(path: Path, said_by: Path | None = None, line: int | None = None) -> ImageHeader:
    """Size and orientation of an image file, without decoding its pixels.

    Args:
        said_by: the file that names this image, to be named in the fault when the image is missing; with its line.

    Raises:
        Faulty: the file is missing, empty or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except FileNotFoundError:
        reject(MISSING_IMAGE, said_by or path, f"there is no image {path}", line)
    except _READ_ERRORS as error:
        if path.is_file() and path.stat().st_size == 0:
            reject(EMPTY_FILE, path, "the image file is empty (0 bytes)")
        reject(UNREADABLE_IMAGE, path, f"not a readable image: {error}")
    on_its_side = orientation in (5, 6, 7, 8)
    return ImageHeader(
        size_hw=(width, height) if on_its_side else (height, width),
        stored_hw=(height, width),
        turned=orientation in range(2, 9),
    )


def pixel_fault(path: Path) -> Fault | None:
    """What is wrong with an image's pixels, found by decoding all of them; None where nothing is.

    A JPEG's whole stream is read, but drawn at the smallest scale, which takes a fraction of the time.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))
            image.load()
            if image.mode == "F":
                return Fault(UNREADABLE_IMAGE, path, FLOATING_POINT)
    except FileNotFoundError:
        return Fault(MISSING_IMAGE, path, "there is no such image")
    except _READ_ERRORS as error:
        if path.is_file() and path.stat().st_size == 0:
            return Fault(EMPTY_FILE, path, "the image file is empty (0 bytes)")
        kind = UNREADABLE_IMAGE if isinstance(error, Image.UnidentifiedImageError) else TRUNCATED_IMAGE
        return Fault(kind, path, f"the pixels cannot be decoded: {error}")
    return None


def list_images(folder: Path, deep: bool = False) -> list[Path]:
    """The image files in a folder, by name; with `deep` also those in its folders."""
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))


class ImageFolder:
    """Finds the image of a stem, whatever its suffix, listing each folder once.

    Attributes:
        folder: stems are relative to it and may hold folders: `event/picture`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}

    def find(self, stem: str) -> Path | None:
        return next(iter(self.find_all(stem)), None)

    def find_all(self, stem: str) -> list[Path]:
        """Every image of that stem; more than one is a fault of the set."""
        wanted = self.folder / stem
        if wanted.parent not in self._by_stem:
            stems: dict[str, list[Path]] = {}
            for path in list_images(wanted.parent) if wanted.parent.is_dir() else ():
                stems.setdefault(path.stem, []).append(path)
            self._by_stem[wanted.parent] = stems
        return self._by_stem[wanted.parent].get(wanted.name, [])
