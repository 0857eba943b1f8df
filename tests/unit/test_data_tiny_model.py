"""The cache of the mini experiment's base model: a copy is the same model, and nothing else is ever copied."""

import pytest

from justrl.config import load
from justrl.data.messages import DEFAULT_SUFFIX
from justrl.data.tiny_model import cached_folder, make_model


@pytest.fixture
def settings():
    """The mini experiment's model, in a size that is trained in a second."""
    small = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "key_value_heads": 1}
    return load(["mini/experiment.yaml"]).models["tiny"].as_dict() | small | {"steps": 2, "batch_size": 4}


@pytest.fixture
def make(settings, tmp_path, monkeypatch, capsys):
    """A function that makes the model, and returns its files and whether they were copied from the cache."""
    monkeypatch.setenv("JUSTRL_CACHE", str(tmp_path / "cache"))

    def made(name: str, seed: int = 1) -> tuple[dict[str, bytes], bool]:
        make_model(settings, seed, tmp_path / name, threads=1)
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        return files, "copied from" in capsys.readouterr().out

    return made


def test_the_second_is_a_copy_of_the_first(make):
    first, copied = make("first")
    assert not copied
    second, copied = make("second")
    assert copied and second == first


def test_another_seed_is_another_model(make):
    first, _ = make("first")
    other, copied = make("other", seed=2)
    assert not copied and other["model.safetensors"] != first["model.safetensors"]


@pytest.mark.parametrize(
    "change", [lambda file: file.write_bytes(b"x"), lambda file: file.unlink()], ids=["edited", "gone"]
)
@pytest.mark.parametrize("name", ["model.safetensors", "checksums.json"])
def test_a_damaged_copy_is_made_again(make, settings, name, change):
    first, _ = make("first")
    change(cached_folder(settings, 1, DEFAULT_SUFFIX) / name)
    again, copied = make("again")
    assert not copied and again == first
    assert make("third") == (first, True)


@pytest.mark.parametrize("record", ["{}", "[]", "null"])
def test_a_copy_without_its_record_is_made_again(make, settings, record):
    first, _ = make("first")
    (cached_folder(settings, 1, DEFAULT_SUFFIX) / "checksums.json").write_text(record)
    assert make("again") == (first, False)


def test_an_empty_value_switches_the_cache_off(make, monkeypatch, tmp_path):
    monkeypatch.setenv("JUSTRL_CACHE", "")
    make("first")
    assert not make("second")[1] and not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_costs_nothing(make, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUSTRL_CACHE", str(tmp_path / "file"))
    assert not make("first")[1] and not make("second")[1]
