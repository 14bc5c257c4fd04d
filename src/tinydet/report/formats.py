"""Numbers as people read them, the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

MISSING = "–"


def percent(value: float | None, spread: float | None = None) -> str:
    """0.4703 to `47.0`, with its spread `47.0 ± 1.2`."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if spread is None else f"{100 * value:.1f} ± {100 * spread:.1f}"


def count(value: float | None) -> str:
    """227_000_000 to `227 M`: three figures and a decimal prefix."""
    if value is None:
        return MISSING
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:
            return three_figures(value / size) + prefix
    return three_figures(value)


def size(value: float | None) -> str:
    """130_000 bytes to `130 kB`; decimal prefixes, as files are sold and papers count."""
    if value is None:
        return MISSING
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= 0.9995 * unit:
            return f"{three_figures(value / unit)} {name}"
    return f"{value:.0f} B"


def milliseconds(value: float | None) -> str:
    return MISSING if value is None else three_figures(value)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def input_size(size_hw: tuple[int, int] | None) -> str:
    """Width first, as screens and papers say it."""
    return MISSING if size_hw is None else f"{size_hw[1]} × {size_hw[0]}"


def three_figures(value: float) -> str:
    """1.234 to `1.23`, 12.34 to `12.3`, 123.4 to `123`; never an exponent."""
    magnitude = abs(value)
    decimals = 0 if magnitude >= 99.95 or magnitude == 0 else 1 if magnitude >= 9.995 else 2
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text and magnitude < 0.1 else text
