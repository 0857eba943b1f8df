"""The floors of the package: who may import whom, read from every import, those inside functions included."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "workflow"
FILES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in ROOT.rglob("*.py")}
# From the top down: a part imports from its own floor and from those below.
FLOORS = [
    {"cli", "public", "__main__"},
    {"status"},
    {"preflight"},
    {"plan"},
    {"workflow"},
    {"report"},
    {"evaluation"},
    {"training", "data"},
    {"verifiers"},
    {"hardware"},
    {"models"},
    {"config"},
    {"io"},
    {"errors"},
]


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself"
            names = (f"{node.module}.{name.name}" for name in node.names)
            found |= {name if name in FILES else node.module for name in names}
    return (found & FILES.keys()) - {module}


IMPORTS = {module: imports(module) for module in FILES}


def package(module: str) -> str:
    """The package of a module; a module at the top stands for itself."""
    parent = module.rpartition(".")[0]
    return module if FILES[module].name == "__init__.py" or parent in ("justrl", "") else parent


def floor(module: str) -> int:
    part = [*module.split("."), "public"][1]
    (number,) = [number for number, parts in enumerate(FLOORS) if part in parts]
    return number


def test_nothing_imports_upwards():
    assert not [f"{a} -> {b}" for a in FILES for b in IMPORTS[a] if floor(b) < floor(a)]


@pytest.mark.parametrize("unit", [str, package])
def test_no_circle(unit):
    graph: dict[str, set[str]] = {}
    for module, found in IMPORTS.items():
        graph.setdefault(unit(module), set()).update({unit(other) for other in found} - {unit(module)})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_file_name_twice():
    names = [path.name for path in FILES.values() if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))
