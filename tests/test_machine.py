from __future__ import annotations

import subprocess
import sys

import numpy as np

from tinydet.machine import Machine, installed_versions, this_machine


def test_this_machine_is_described() -> None:
    machine = this_machine()
    assert machine.processor
    assert machine.cores >= 1
    assert machine.memory_bytes is None or machine.memory_bytes > 100e6
    assert f"{machine.cores} core" in str(machine)


def test_the_description_in_words() -> None:
    machine = Machine("Cortex-A72", 1, 2**31, "Linux aarch64", "a GPU")
    assert str(machine) == "Cortex-A72, 1 core, 2 GiB memory, a GPU, Linux aarch64"
    assert str(Machine("Cortex-A72", 4, None, "Linux aarch64")) == "Cortex-A72, 4 cores, Linux aarch64"


def test_versions_are_those_installed_and_nothing_is_imported_for_them() -> None:
    assert installed_versions()["numpy"] == np.__version__
    code = (
        "import sys; from tinydet.machine import *; this_machine(); installed_versions(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
