"""Which code a function of the user's consists of: an edit of any of it is noticed, and nothing else is."""

import pytest

from justrl.config import OwnFunction
from justrl.config.custom_code import code_sha256, helpers
from justrl.errors import UserError
from justrl.io import file_sha256
from justrl.verifiers.own import OwnGrader

GRADE = "\ndef grade(completion, gold, row):\n    return True\n"
# What the grader's file says, and the files that it thereby consists of.
IMPORTED = {
    "import": ("import near", {"near.py"}),
    "two in a line": ("import json, near as n", {"near.py"}),
    "name from": ("from near import X", {"near.py"}),
    "all of": ("from near import *", {"near.py"}),
    "inside a function": ("def f():\n    import near", {"near.py"}),
    "importlib": ("import importlib\nimportlib.import_module('near')", {"near.py"}),
    "import_module": ("from importlib import import_module\nimport_module('near')", {"near.py"}),
    "dunder": ("__import__('near')", {"near.py"}),
    "by way of another": ("import first", {"first.py", "near.py"}),
    "in a circle": ("import round_a", {"round_a.py", "round_b.py"}),
    "package": ("import pack", {"pack/__init__.py", "pack/inner.py"}),
    "module of a package": ("import pack.other", {"pack/__init__.py", "pack/inner.py", "pack/other.py"}),
    "module from a package": ("from pack import other", {"pack/__init__.py", "pack/inner.py", "pack/other.py"}),
    "folder on the path": ("import sys\nsys.path.insert(0, 'lib')\nimport far", {"far.py"}),
    "folder beside the file": (
        "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))\nimport far",
        {"far.py"},
    ),
    "nothing of the user's": ("import json, numpy\nfrom math import sqrt", set()),
    "nothing at all": ("", set()),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    files = {
        "near.py": "X = 1\n",
        "first.py": "import near\n",
        "round_a.py": "import round_b\n",
        "round_b.py": "import round_a\n",
        "pack/__init__.py": "from . import inner\n",
        "pack/inner.py": "Y = 1\n",
        "pack/other.py": "from .inner import Y\n",
        "lib/far.py": "Z = 1\n",
        "unrelated.py": "W = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("case", IMPORTED)
def test_an_edit_of_what_is_imported_is_an_edit(folder, case):
    text, consists_of = IMPORTED[case]
    grader = folder / "grader.py"
    grader.write_text(text + GRADE)
    found = helpers(grader)
    assert {str(file.relative_to(folder)).removeprefix("lib/") for file in found} == consists_of
    before = code_sha256(grader)
    if not consists_of:
        assert before == file_sha256(grader), "what earlier versions wrote down"
    for file in found:
        whole = file.read_text()
        file.write_text(whole + "MORE = 1\n")
        assert code_sha256(grader) != before, file
        file.write_text(whole)
    (folder / "unrelated.py").write_text("W = 2\n")
    assert code_sha256(grader) == before
    grader.write_text(text + GRADE + "# edited\n")
    assert code_sha256(grader) != before


def test_an_experiment_is_not_graded_with_another_helper(folder):
    (folder / "grader.py").write_text("import near" + GRADE)
    own = OwnFunction(file=str(folder / "grader.py"), function="grade")
    OwnGrader(own)
    (folder / "near.py").write_text("X = 2\n")
    assert OwnFunction(file=own.file, function="grade") != own
    with pytest.raises(UserError, match=r"grader.py, or a module next to it that it imports, has been edited"):
        OwnGrader(own)
