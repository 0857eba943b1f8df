"""The code of a custom function: its file, and the modules next to it that the file imports.

The code is parsed, not imported: `import x`, `from . import x`, `importlib.import_module("x")` and `__import__("x")`
with a literal name, anywhere in the file, and the imports of these modules. A module is searched in the file's folder,
in folders that the code adds to `sys.path`, in the working directory and in this repository; installed packages belong
to the environment. Computed names, data files and compiled modules are not found.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from justrl.config.files import ROOT
from justrl.io import file_sha256, json_sha256


def code_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a Python file or, if it imports modules next to it, of all these files."""
    path = Path(path)
    found = helpers(path)
    if not found:
        return file_sha256(path)
    return json_sha256([file_sha256(file) for file in (path, *found)])


def helpers(path: Path) -> list[Path]:
    """Return the modules next to a Python file that it imports, directly or indirectly, in an order set by the code."""
    found: list[Path] = []
    seen = {path.resolve()}
    waiting = [(path, [path.parent, Path.cwd(), ROOT])]
    while waiting:
        file, folders = waiting.pop()
        tree = _parsed(file)
        if tree is None:
            continue
        folders = list(dict.fromkeys([*folders, *_added_folders(tree, file)]))
        for name, start in _imported(tree, file):
            for module in _modules(name, [start] if start else folders):
                if module.resolve() not in seen:
                    seen.add(module.resolve())
                    found.append(module)
                    waiting.append((module, folders))
    return found


def _parsed(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # reported when the file is imported


def _imported(tree: ast.Module, file: Path) -> Iterator[tuple[str, Path | None]]:
    """Yield each name that may be a module, with the folder that a relative import starts from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else None
            parts = [node.module] if node.module else []
            yield from ((".".join([*parts, alias.name]), start) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node).rpartition(".")[2] in ("import_module", "__import__"):
            yield from ((name.lstrip("."), file.parent if name[:1] == "." else None) for name in _texts(node)[:1])


def _added_folders(tree: ast.Module, file: Path) -> Iterator[Path]:
    """Yield folders in calls such as `sys.path.insert(0, "lib")`, below the working directory and near the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node).startswith(("sys.path.", "path.")):
            for text in _texts(node):
                yield from (start / text for start in (Path.cwd(), file.parent, file.parent.parent))


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _texts(node: ast.Call) -> list[str]:
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _modules(name: str, folders: list[Path]) -> Iterator[Path]:
    """Yield the files of a dotted name in the first folder that has it, packages first."""
    parts = name.split(".")
    for folder in folders:
        first = folder / parts[0]
        if first.is_dir() or first.with_name(f"{first.name}.py").is_file():
            for count in range(1, len(parts) + 1):
                stem = folder.joinpath(*parts[:count])
                files = stem / "__init__.py", stem.with_name(f"{stem.name}.py")
                yield from (file for file in files if file.is_file())
            return
