"""Fetching the public sets: VOC 2007 and 2012, and WIDER FACE. Resumed where it stopped, and checked before use."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tinydet.errors import InputError, TinydetError

_BLOCK_BYTES = 1 << 18
_TIMEOUT_S = 60.0

Advance = Callable[[str, int, int | None], None]
"""Told `(file name, bytes so far, bytes in all or None)` while a file arrives."""


@dataclass(frozen=True)
class Archive:
    """A file to fetch and unpack.

    Attributes:
        md5: of the whole file, as its publishers or torchvision give it.
    """

    url: str
    md5: str

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name


_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/"
_WIDER = "https://huggingface.co/datasets/wider_face/resolve/main/data/"

# The checksums are those that torchvision's `VOCDetection` and `WIDERFace` check; WIDER FACE's own links lead to Google
# Drive, which no plain client can fetch from, so its files come from a mirror and are checked against the originals'.
SOURCES: dict[str, tuple[Archive, ...]] = {
    "voc2007": (
        Archive(_VOC + "voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        Archive(_VOC + "voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ),
    "voc2012": (Archive(_VOC + "voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
    "wider": (
        Archive(_WIDER + "wider_face_split.zip", "0e3767bcf0e326556d407bf5bff5d27c"),
        Archive(_WIDER + "WIDER_val.zip", "dfa7d7e790efa35df3788964cf0bbaea"),
        Archive(_WIDER + "WIDER_train.zip", "3fedf70df600953d25982bcd13d91ba2"),
    ),
}


def _silent(name: str, done_bytes: int, total_bytes: int | None) -> None:
    """Shows nothing."""


def download_dataset(
    name: str,
    out: str | os.PathLike[str],
    *,
    url: str | None = None,
    keep_archives: bool = False,
    advance: Advance = _silent,
) -> Path:
    """Fetch a public data set and unpack it; what has arrived or been unpacked before is not fetched again.

    Args:
        name: `voc2007`, `voc2012` or `wider`.
        out: VOC gives `out/VOCdevkit/VOC2007`, WIDER FACE `out/WIDER_train`, `out/wider_face_split`, ...
        url: a mirror's folder that holds files of the same names.

    Returns:
        `out`, which `open_dataset` opens.

    Raises:
        InputError: an unknown name or URL.
        TinydetError: the network fails again and again, a checksum is wrong, or the disk is full.
    """
    if name not in SOURCES:
        raise InputError(f"{name}: no such data set to download; there are {', '.join(SOURCES)}")
    archives = SOURCES[name]
    if url is not None:
        archives = tuple(Archive(f"{url.rstrip('/')}/{archive.name}", archive.md5) for archive in archives)
    return download_archives(archives, out, keep_archives=keep_archives, advance=advance)


def download_archives(
    archives: tuple[Archive, ...],
    out: str | os.PathLike[str],
    *,
    keep_archives: bool = False,
    advance: Advance = _silent,
) -> Path:
    """Fetch, check and unpack archives into one folder."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            done = folder / f".{archive.name}.unpacked"
            if done.is_file() and done.read_text(encoding="utf-8").strip() == archive.md5:
                continue
            path = folder / archive.name
            fetch(archive.url, path, archive.md5, advance=advance)
            extract(path, folder)
            done.write_text(archive.md5 + "\n", encoding="utf-8")
            if not keep_archives:
                path.unlink()
    except OSError as error:
        raise TinydetError(f"{folder}: {error.strerror or error}") from error
    return folder


def fetch(
    url: str, path: Path, md5: str, *, attempts: int = 5, pause_s: float = 2.0, advance: Advance = _silent
) -> None:
    """Fetch a file to `path`; a part that arrived before, `path.partial`, is carried on with.

    Args:
        attempts: without any progress, before giving up; each waits `pause_s` longer than the last.

    Raises:
        InputError: the URL is not http or https, or the server says that there is no such file.
        TinydetError: the transfer fails, or the checksum is wrong; a wrong file is removed.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url}: expected a URL that begins with https:// or http://")
    if path.is_file() and _md5(path) == md5:
        return
    partial = path.with_name(path.name + ".partial")
    resumed = partial.exists()
    _fetch_patiently(url, partial, attempts, pause_s, advance)
    found = _md5(partial)
    if found != md5 and resumed:  # the part from before may have been of another file
        partial.unlink()
        _fetch_patiently(url, partial, attempts, pause_s, advance)
        found = _md5(partial)
    if found != md5:
        partial.unlink()
        raise TinydetError(
            f"{url}: wrong checksum: expected md5 {md5}, found {found}; removed. Try again, or --url MIRROR"
        )
    os.replace(partial, path)


def _fetch_patiently(url: str, partial: Path, attempts: int, pause_s: float, advance: Advance) -> None:
    failures = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _fetch_rest(url, partial, advance)
            return
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404, 410):
                raise InputError(f"{url}: the server answers {error.code} {error.reason}; give --url MIRROR") from error
            reason = f"{error.code} {error.reason}"
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", None) or error)
        arrived = partial.stat().st_size if partial.exists() else 0
        failures = 1 if arrived > before else failures + 1
        if failures >= attempts:
            raise TinydetError(
                f"{url}: {reason}, {attempts} times without progress; {arrived} bytes are kept in {partial}: "
                "the same command carries on from there"
            )
        time.sleep(pause_s * failures)


def _fetch_rest(url: str, partial: Path, advance: Advance) -> None:
    """One request for what is missing. Returns only when the whole file is there."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "tinydet"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        if error.code != 416:  # range not satisfiable: nothing follows what we have, or it is of another file
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        partial.unlink(missing_ok=True)
        raise ConnectionError("the server has less than what arrived before; starting again") from error
    with response:
        if response.status != 206:
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with open(partial, "ab" if have else "wb") as file:
            while block := response.read(_BLOCK_BYTES):
                file.write(block)
                have += len(block)
                advance(partial.name.removesuffix(".partial"), have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file into a folder that may hold others already.

    Raises:
        TinydetError: it is no archive, is damaged, or holds a member that would land outside the folder, a link that
            leads there, or a device; nothing of it is left then.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking.", dir=folder))
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, temporary)
        else:
            _extract_tar(archive, temporary)
        for path in _files(temporary):
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise TinydetError(f"{archive}: cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


def _extract_tar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise TinydetError("this Python cannot unpack a tar file safely; use Python 3.11.4 or newer")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/"))
            kind = stat.S_IFMT(member.external_attr >> 16)
            if parts.is_absolute() or ".." in parts.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise zipfile.BadZipFile(f"{member.filename!r} would land outside the folder, or is a link")
        opened.extractall(folder)
