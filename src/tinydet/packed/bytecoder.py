"""General compression of bytes, for text, graphs and whatever the tensor coder has no model of.

One byte says how: 0 as they are, 1 deflate without a header, 64 + 9 * (5 * pb + lp) + lc LZMA2 without a header.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Sequence
from typing import Any

from tinydet.packed.limits import PackedFileError

STORED, DEFLATE, LZMA2 = 0, 1, 64
_MIN_DICTIONARY, _MAX_DICTIONARY = 1 << 12, 1 << 26
_TEXT, _WORDS = (3, 0, 0), (0, 2, 2)  # literal context, literal position and position bits: for text, for 4-byte words
_EVERY = ((3, 0, 0), (0, 0, 0), (4, 0, 0), (2, 0, 0), (0, 2, 2), (1, 0, 0))


def _filters(content_bytes: int, lc: int, lp: int, pb: int, write: bool) -> list[dict[str, Any]]:
    dictionary = min(max(_MIN_DICTIONARY, 1 << max(content_bytes - 1, 1).bit_length()), _MAX_DICTIONARY)
    chosen: dict[str, Any] = {"id": lzma.FILTER_LZMA2, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}
    if write:
        chosen |= {"mode": lzma.MODE_NORMAL, "mf": lzma.MF_BT4, "nice_len": 273, "depth": 512}
    return [chosen]


def compress(content: bytes, *, thorough: bool = True) -> tuple[int, bytes]:
    """The method's byte and the compressed bytes, the smallest of several; never longer than `content`.

    Args:
        thorough: try every setting, worth it for sections of up to some megabytes.
    """
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    candidates = [(STORED, content), (DEFLATE, deflate.compress(content) + deflate.flush())]
    settings: Sequence[tuple[int, int, int]] = _EVERY if thorough else (_TEXT, _WORDS)
    for lc, lp, pb in settings:
        packed = lzma.compress(content, lzma.FORMAT_RAW, filters=_filters(len(content), lc, lp, pb, True))
        candidates.append((LZMA2 + 9 * (5 * pb + lp) + lc, packed))
    return min(candidates, key=lambda candidate: len(candidate[1]))


def decompress(method: int, packed: bytes, content_bytes: int, what: str) -> bytes:
    """`content_bytes` bytes, no more and no fewer. The caller has checked that so many are allowed.

    Raises:
        PackedFileError: `packed` is not what the method makes, or does not hold exactly so many bytes.
    """
    if method == STORED:
        content = packed
    elif method == DEFLATE:
        content = _inflate(packed, content_bytes, what)
    else:
        content = _unlzma(method - LZMA2, packed, content_bytes, what)
    if len(content) != content_bytes:
        raise PackedFileError(f"{what}: {len(content):,} bytes instead of the {content_bytes:,} declared")
    return content


def _inflate(packed: bytes, content_bytes: int, what: str) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        content = inflater.decompress(packed, content_bytes + 1)
    except zlib.error as error:
        raise PackedFileError(f"{what}: damaged: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise PackedFileError(f"{what}: its compressed bytes do not end where they should")
    return content


def _unlzma(settings: int, packed: bytes, content_bytes: int, what: str) -> bytes:
    lc, lp, pb = settings % 9, settings // 9 % 5, settings // 45
    if settings < 0 or pb > 4 or lc + lp > 4:
        raise PackedFileError(f"{what}: unknown compression method {settings + LZMA2}")
    try:
        reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(content_bytes, lc, lp, pb, False))
        content = reader.decompress(packed, content_bytes + 1)
        if len(content) == content_bytes and not reader.eof:  # the end marker may still stand in its buffer
            content += reader.decompress(b"", 1)
    except (lzma.LZMAError, EOFError) as error:
        raise PackedFileError(f"{what}: damaged: {error}") from None
    if not reader.eof or reader.unused_data:
        raise PackedFileError(f"{what}: its compressed bytes do not end where they should")
    return content
