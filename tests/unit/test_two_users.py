"""Two users of a group, umask 0002, in one results folder."""

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
from justrl.data import lock
from justrl.io import atomic_folder, write_json
from justrl.train import run_lock
os.umask(0o002)
shared = Path(sys.argv[1])
with run_lock.hold(shared / "work" / "LOCK"):
    write_json(shared / "work" / "state.json", {})
    with atomic_folder(shared / "model") as folder:
        (folder / "weights").write_text("x")
lock.add_entry(shared / "lock.json", f"dataset:{os.getuid()}", {"hub_id": "x", "revision": "a" * 40, "files": {}})
"""


def test_each_goes_on_where_the_other_stopped(root):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to be two users")
    # Not tmp_path, which is root's alone.
    shared = Path(tempfile.mkdtemp())
    try:
        os.chown(shared, 0, 65534)
        shared.chmod(0o2775)
        for user in ("1001", "1002", "1001"):
            command = ["setpriv", "--reuid", user, "--regid", "65534", "--clear-groups", sys.executable, "-c", SHARE]
            environment = os.environ | {"PYTHONPATH": str(root / "workflow"), "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run([*command, str(shared)], env=environment, capture_output=True, text=True)
            if "No module named" in done.stderr or "Permission denied: '/root" in done.stderr:
                pytest.skip(f"another user cannot read this Python or this repository: {done.stderr[-200:]}")
            assert done.returncode == 0, done.stderr
        assert (shared / "lock.json").read_text().count('"revision"') == 2
    finally:
        shutil.rmtree(shared)
