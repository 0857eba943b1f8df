"""Two users of a group, umask 0002, in one results folder and of one mirror."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SHARE = """
import os, sys
from pathlib import Path
from justrl.data import sources
from justrl.io import atomic_folder, write_json
from justrl.training import run_lock
os.umask(0o002)
shared = Path(sys.argv[1])
with run_lock.hold(shared / "work" / "LOCK"):
    write_json(shared / "work" / "state.json", {})
    with atomic_folder(shared / "model") as folder:
        (folder / "weights").write_text("x")
sources.add_entry(shared / "lock.json", f"dataset:{os.getuid()}", {"hub_id": "x", "revision": "a" * 40, "files": {}})
"""
FILL = """
import os, sys
from pathlib import Path
os.umask(0o002)
data = Path(sys.argv[1]) / "org" / "set" / "data"
data.mkdir(parents=True)
(data / "train.jsonl").write_text("{}")
"""
READ = """
import sys
from pathlib import Path
from justrl.data.sources import Hub, locate
from justrl.errors import UserError
try:
    print(*locate("dataset", "org/set", hub=Hub(Path(sys.argv[1]), offline=True)).files)
except UserError as error:
    print(error)
"""
# What the one may still keep from the other: a file, a folder of the repository, all of the owner's.
KEPT = {"org/set/data/train.jsonl": 0o600, "org/set/data": 0o700, "org": 0o700}


@pytest.fixture
def shared():
    """A folder of a group; not tmp_path, which is root's alone."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to be two users")
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, 0, 65534)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def as_user(root, shared):
    """A function that runs a script in the shared folder as a user of the group, and returns what it printed."""

    def run(user: str, script: str) -> str:
        command = ["setpriv", "--reuid", user, "--regid", "65534", "--clear-groups", sys.executable, "-c", script]
        environment = os.environ | {"PYTHONPATH": str(root / "workflow"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([*command, str(shared)], env=environment, capture_output=True, text=True)
        if "No module named" in done.stderr or "Permission denied: '/root" in done.stderr:
            pytest.skip(f"another user cannot read this Python or this repository: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_each_goes_on_where_the_other_stopped(shared, as_user):
    for user in ("1001", "1002", "1001"):
        as_user(user, SHARE)
    assert (shared / "lock.json").read_text().count('"revision"') == 2


def test_both_read_a_mirror_and_what_one_keeps_from_the_other_is_said(shared, as_user):
    as_user("1001", FILL)
    assert as_user("1002", READ) == "data/train.jsonl"
    for name, mode in KEPT.items():
        path = shared / name
        before = path.stat().st_mode
        path.chmod(mode)
        assert as_user("1001", READ) == "data/train.jsonl"
        said = as_user("1002", READ)
        assert f"{path} cannot be read by this user (Permission denied)" in said and "chmod -R g+rX" in said, name
        path.chmod(before)
