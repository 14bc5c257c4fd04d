"""What this machine is, in words, so that a measured figure says where it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGES = ("tinydet", "numpy", "onnxruntime", "openvino", "torch", "torchvision")


@dataclass(frozen=True)
class Machine:
    """Attributes:
    processor: the model's name as the system reports it.
    cores: logical cores that this process may use, in whole cores where a quota limits it.
    memory_bytes: main memory that this process may use; None where the system does not say.
    system: operating system and architecture.
    accelerator: the GPU's name, when PyTorch is in use and sees one.
    """

    processor: str
    cores: int
    memory_bytes: int | None
    system: str
    accelerator: str | None = None

    def __str__(self) -> str:
        parts = [self.processor, f"{self.cores} core{'s' if self.cores != 1 else ''}"]
        if self.memory_bytes:
            parts.append(f"{self.memory_bytes / 2**30:.3g} GiB memory")
        if self.accelerator:
            parts.append(self.accelerator)
        return ", ".join([*parts, self.system])


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=_usable_cores(),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.machine()}".strip(),
        accelerator=_accelerator(),
    )


def installed_versions() -> dict[str, str]:
    """Versions of Python and of those packages that change figures; what is not installed is left out.

    Read from the packages' metadata: nothing is imported.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    text = _read("/proc/cpuinfo")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    board = _read("/proc/device-tree/model").strip("\0\n ")  # ARM boards name themselves here
    if board:
        return board
    if sys.platform == "darwin":
        try:
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine() or "unknown processor"


def _usable_cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()  # "200000 100000": two cores' worth of time; or "max 100000"
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        allowed = min(allowed, max(1, round(int(quota[0]) / int(quota[1]))))
    return allowed


def _memory_bytes() -> int | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")  # asking must not import it
    if torch is None or not torch.cuda.is_available():
        return None
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{len(names)} x {names[0]}" if len(names) > 1 else names[0]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
