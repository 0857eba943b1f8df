"""A segment whose files are torn or foreign says so in a sentence, or goes on without them."""

import shutil

import pytest
from reference_run import Run, make_materials


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run whose first half is trained and published."""
    run = Run(make_materials(tmp_path_factory.mktemp("materials")), tmp_path_factory.mktemp("half"))
    assert run.finish(*run.arguments(0, 4)) == 0, run.output
    return run


FORMS = {"folder": None, "cut": b'{"host": '}
STATE = "work/checkpoints/step_000004"
# What a segment needs and cannot make again; all else is passed over, and what can be made is made again.
NEEDED = ["run.json", "work", "work/checkpoints", f"{STATE}/manifest.json", f"{STATE}/tensors.pt"]
SPARE = ["work/LOCK", "work/metrics.jsonl", "work/finished/step_000008", "work/tensorboard", "8"]


FOLDERS = {"work", "work/checkpoints", "work/tensorboard", "8"}
CASES = [(name, form) for name in NEEDED + SPARE for form in FORMS if not (form == "folder" and name in FOLDERS)]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_torn_or_foreign_file_is_one_sentence_or_none(half, tmp_path, name, form):
    run = Run(half.materials, tmp_path / "run")
    shutil.copytree(half.folder, run.folder)
    (run.folder / "output.txt").unlink()
    for path in run.work.glob("checkpoints/step_000002"):
        shutil.rmtree(path)
    shutil.copy(half.materials / "run.json", run.folder / "run.json")
    file = run.folder / name
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if FORMS[form] is None:
        file.mkdir()
    else:
        file.write_bytes(FORMS[form])
    status = run.finish(*run.arguments(4, 6), "--run-file", str(run.folder / "run.json"))
    assert "Traceback" not in run.output, run.output
    errors = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == (status != 0), run.output
    assert status == 0 or name in NEEDED or str(file) in errors[0], run.output
