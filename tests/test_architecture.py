"""The cut between the two halves, and the layers: what each part may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tinydet

ROOT = Path(tinydet.__file__).parent

LIGHT = [
    "records",
    "boxes",
    "errors",
    "files",
    "preprocessing",
    "datasets",
    "evaluation",
    "packed",
    "runtime",
    "loading",
    "report",
    "drawing",
    "machine",
    "benchmark",
    "cli",
]
"""What installs and runs without PyTorch."""

LAYERS = (
    ("errors",),
    ("files", "boxes", "machine", "preprocessing", "quantizers", "processes", "config"),
    ("records",),
    ("datasets", "evaluation", "drawing", "packed"),
    ("report", "runtime"),
    ("benchmark", "loading", "data", "backbones"),
    ("detectors",),
    ("complexity", "training"),
    ("distill", "export", "pretraining"),
    ("prune", "sharing", "int8", "compression"),
    ("recipes",),
    ("cli",),
)
"""From the ground up. A part imports from its own layer and from those before it."""


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(path: Path, top_level_only: bool) -> set[str]:
    """Names of tinydet modules that a file imports; those for type checkers alone are left out."""
    names = set()
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tinydet":
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if alias.name.split(".")[0] == "tinydet")
    return names & set(modules())


def test_every_part_has_its_layer():
    placed = {part for layer in LAYERS for part in layer}
    assert {part_of(module) for module in modules()} - {"", "__main__"} <= placed


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_no_import_points_upwards(layer: int):
    above = {part for upper in LAYERS[layer + 1 :] for part in upper}
    upward = [
        f"{module} imports {imported}"
        for module, path in modules().items()
        if part_of(module) in LAYERS[layer]
        for imported in imports_of(path, top_level_only=True)
        if part_of(imported) in above
    ]
    assert upward == []


def test_there_is_no_cycle_of_imports():
    known = modules()
    graph = {module: imports_of(path, top_level_only=True) - {module} for module, path in known.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        for imported in graph[module]:
            if not module.startswith(f"{imported}."):  # a package is there before its modules
                visit(imported, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


BLOCKED = ("torch", "torchvision", "lightning_fabric", "scipy", "matplotlib", "cv2", "sklearn", "onnx", "safetensors")
BLOCKER = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run_blocked(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKER + code], capture_output=True, text=True, timeout=60)


def test_the_light_half_imports_without_the_heavy_packages():
    light = sorted(module for module in modules() if part_of(module) in LIGHT)
    result = run_blocked("import importlib\n" + "\n".join(f"importlib.import_module({m!r})" for m in light))
    assert result.returncode == 0, result.stderr


def test_the_light_half_never_imports_the_heavy_one_while_loading():
    heavy = {part for layer in LAYERS for part in layer} - set(LIGHT) - {"quantizers", "processes", "config"}
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules().items()
        if part_of(module) in LIGHT and part_of(module) != "cli"
        for imported in imports_of(path, top_level_only=True)
        if part_of(imported) in heavy
    ]
    assert wrong == []


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["score", "--help"], ["inspect", "--help"]])
def test_the_command_line_works_without_them(arguments: list[str]):
    code = f"import sys; sys.argv = ['tinydet', *{arguments!r}]; from tinydet.cli import main; main()"
    result = run_blocked(code)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


def test_a_verb_that_needs_them_says_what_to_install():
    code = "import sys; sys.argv = ['tinydet', 'recipes']; from tinydet.cli import main; main()"
    result = run_blocked(code)
    assert result.returncode == 2
    assert 'pip install "tinydet[train]"' in result.stderr
    assert "Traceback" not in result.stderr
