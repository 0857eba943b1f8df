"""Training states: read back to the bit, refused when damaged or foreign, never more than two."""

import contextlib
import json
import os
import resource
import shutil
import signal

import pytest
import torch

from justrl.errors import UserError
from justrl.training.reference import checkpoint
from justrl.training.reference.checkpoint import (
    RefusedCheckpoint,
    TrainingState,
    list_states,
    load_state,
    newest_state,
    save_state,
)

IDENTITY = {"run": "mini", "seed": 1, "recipe": {"learning_rate": 1e-6, "adam_betas": [0.9, 0.999]}}


def make_state(step, identity=IDENTITY):
    """A state with real optimizer contents."""
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, done / 3))
    metrics = [{"step": s, "reward_mean": s / 3} for s in range(1, step + 1)]
    return TrainingState(
        step,
        model.state_dict(),
        optimizer.state_dict(),
        schedule.state_dict(),
        identity,
        metrics,
        {"cpu": torch.get_rng_state()},
    )


def test_a_state_of_before_a_key_was_there_is_its_default(tmp_path):
    """Newer code must go on with what older code has trained."""
    older, recipe = make_state(3), IDENTITY["recipe"]
    folder = save_state(tmp_path, older)
    assert load_state(folder, {**IDENTITY, "recipe": {**recipe, "loss": "vanilla", "data_seed": None}}).step == 3
    with pytest.raises(RefusedCheckpoint, match=r"recipe\.loss: vanilla -> gspo"):
        load_state(folder, {**IDENTITY, "recipe": {**recipe, "loss": "gspo"}})


def save(folder, *steps):
    """Save states one after the other, as a training does."""
    spare = None
    for step in steps:
        spare = save_state(folder, make_state(step), spare)
    return spare


def same(a, b):
    """Whether two nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_comes_back_to_the_bit(tmp_path):
    state = make_state(3)
    loaded = load_state(save_state(tmp_path, state), IDENTITY)
    assert vars(state).keys() == vars(loaded).keys()
    for name in vars(state):
        assert same(getattr(state, name), getattr(loaded, name)), name


def test_never_more_than_two_and_the_newest_stay(tmp_path):
    save(tmp_path, 10, 20, 30, 40)
    assert [path.name for path in list_states(tmp_path)] == ["step_000030", "step_000040"]


def test_two_is_also_the_most_while_saving(tmp_path, monkeypatch):
    spare = save(tmp_path, 10, 20)
    seen = []
    real = checkpoint.write_manifest
    monkeypatch.setattr(checkpoint, "write_manifest", lambda f: (seen.append(len(list(tmp_path.iterdir()))), real(f)))
    save_state(tmp_path, make_state(30), spare)
    assert seen == [2]


DAMAGE = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "emptied": lambda p: p.write_bytes(b""),
    "one bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "gone": lambda p: p.unlink(),
}


@pytest.mark.parametrize("file", ["model.safetensors", "tensors.pt", "state.json", "metrics.jsonl", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_state_is_refused_by_name_and_the_one_before_is_used(tmp_path, capsys, file, damage):
    newest = save(tmp_path, 10, 20)
    DAMAGE[damage](newest / file)
    with pytest.raises(RefusedCheckpoint, match=r"step_000020.*" + file.replace(".", r"\.")):
        load_state(newest, IDENTITY)
    path, state = newest_state(tmp_path, IDENTITY, 0, 100)
    assert (path.name, state.step) == ("step_000010", 10)
    message = capsys.readouterr().err
    assert "step_000020" in message and file in message
    # The next save keeps the good one, not the torn one.
    save_state(tmp_path, make_state(30), path)
    assert [p.name for p in list_states(tmp_path)] == ["step_000010", "step_000030"]


def test_a_foreign_state_is_refused_by_what_differs_and_left_alone(tmp_path, capsys):
    save(tmp_path, 10)
    changed = json.loads(json.dumps(IDENTITY))
    changed["recipe"]["learning_rate"] = 2e-6
    assert newest_state(tmp_path, changed, 0, 100) is None
    assert "recipe.learning_rate: 1e-06 -> 2e-06" in capsys.readouterr().err
    spare = save_state(tmp_path, make_state(5, changed))
    assert [p.name for p in list_states(tmp_path)] == ["step_000005", "step_000010"]
    # Where both have a state of the same step, the other's is kept under another name.
    save_state(tmp_path, make_state(10, changed), spare)
    assert newest_state(tmp_path, changed, 0, 100)[1].step == 10
    (aside,) = tmp_path.glob("foreign_step_000010_*")
    assert load_state(aside, IDENTITY).step == 10


def test_a_state_of_another_format_is_refused(tmp_path):
    folder = save(tmp_path, 10)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "other-7"}))
    with pytest.raises(RefusedCheckpoint, match="'other-7'"):
        load_state(folder, IDENTITY)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "lists no files"),
        ({"model.safetensors": 7}, "lists no files"),
        ({"state.json": None}, "is not in its manifest.json"),
    ],
    ids=["none", "no hash", "some"],
)
def test_a_manifest_that_does_not_list_what_is_there_is_refused(tmp_path, files, words):
    """Weights that it does not know could be any."""
    folder = save(tmp_path, 10)
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {name: entry or manifest["files"][name] for name, entry in files.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": listed}))
    with pytest.raises(RefusedCheckpoint, match=rf"step_000010.*{words}"):
        load_state(folder, IDENTITY)


def test_a_pickle_in_place_of_tensors_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    folder = save(tmp_path, 10)
    torch.save({"optimizer": Evil(), "random": {}}, folder / "tensors.pt")
    checkpoint.write_manifest(folder)  # the sums agree: only the reader is left to refuse it
    with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported"):
        load_state(folder, IDENTITY)
    assert not (tmp_path / "ran").exists()


def test_only_states_of_the_segment_are_considered(tmp_path):
    save(tmp_path, 10, 20)
    assert newest_state(tmp_path, IDENTITY, 0, 15)[1].step == 10
    assert newest_state(tmp_path, IDENTITY, 21, 40) is None
    assert newest_state(tmp_path / "absent", IDENTITY, 0, 40) is None


def test_a_save_that_was_killed_leaves_nothing_that_counts(tmp_path):
    spare = save(tmp_path, 10)
    shutil.copytree(spare, tmp_path / ".step_000020.tmp")
    assert newest_state(tmp_path, IDENTITY, 0, 100)[1].step == 10
    save_state(tmp_path, make_state(20), spare)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000010", "step_000020"]


@contextlib.contextmanager
def files_no_longer_than(limit):
    """Stop writing in mid-file, as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [100, 1000, 2500])
def test_no_room_is_said_so_and_the_state_before_is_intact(tmp_path, limit):
    # The limits stop it in the model, in the tensors, and in between.
    spare = save(tmp_path, 10)
    with pytest.raises(UserError) as error, files_no_longer_than(limit):
        save_state(tmp_path, make_state(20), spare)
    assert "no space to save the training state of step 20" in str(error.value)
    assert "intact states: step_000010" in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000010"]
    assert load_state(tmp_path / "step_000010", IDENTITY).step == 10


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    state = make_state(10)
    state.scheduler = {"not json": object()}
    with pytest.raises(TypeError):
        save_state(tmp_path, state)
    assert not issubclass(TypeError, UserError)
    assert list(tmp_path.iterdir()) == []
