"""Shards, resuming, and the completions file."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.config import EvalProtocol
from justrl.errors import UserError
from justrl.evaluation import completions
from justrl.evaluation.completions import COLUMNS, PartStore, read_completions
from justrl.evaluation.generating import GenerationJob, Question, generate, plan_shard, read_benchmark
from justrl.io import file_sha256, write_json
from justrl.models import load_backend
from tiny_model import make_tiny_model

torch = pytest.importorskip("torch")

PROTOCOL = EvalProtocol(temperature=1.0, top_p=0.95, max_tokens=12, prompt_separator=" ", prompt_suffix="Box it.")
QUESTIONS = [Question(f"toy-{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(7)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def backend(model_dir):
    return load_backend("transformers", model_dir, dtype="float64")


@pytest.fixture
def job(model_dir, tmp_path):
    return GenerationJob(
        model=str(model_dir),
        model_name="tiny",
        benchmark="toy",
        questions=QUESTIONS,
        protocol=PROTOCOL,
        samples=3,
        output=tmp_path / "out" / "whole.parquet",
        run="run@10",
        seed=1,
        backend="transformers",
        dtype="float64",
    )


def completions_of(path):
    samples, _ = read_completions([path])
    return samples.drop(columns=["model", "model_revision"])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_shards_share_out_every_sample_evenly(questions, samples, shards):
    dealt = [plan_shard(questions, samples, shard, shards) for shard in range(shards)]
    pairs = [pair for shard in dealt for pair in shard]
    assert sorted(pairs) == [(q, s) for q in range(questions) for s in range(samples)]
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert all(shard == sorted(shard) for shard in dealt)


@pytest.mark.parametrize(("shard", "shards"), [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(shard, shards):
    with pytest.raises(UserError, match="--shard"):
        plan_shard(3, 2, shard, shards)


def test_shards_hold_what_the_whole_holds(job, backend, tmp_path):
    generate(job, backend)
    whole = completions_of(job.output)
    assert len(whole) == 21 and list(whole.columns) == [c for c in COLUMNS if not c.startswith("model")]
    assert whole["seed"].nunique() == 21
    paths = [tmp_path / f"{shard}.parquet" for shard in range(4)]
    backend.batch_size = 2
    for shard, path in enumerate(paths):
        generate(dataclasses.replace(job, shard=shard, shards=4, output=path), backend)
    merged, settings = read_completions(paths[::-1])
    assert merged.drop(columns=["model", "model_revision"]).equals(whole)
    assert settings["protocol"]["temperature"] == 1.0 and settings["environments"][0]["device"] == "cpu"


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def test_a_row_says_what_was_asked_and_how(job, backend):
    generate(job, backend)
    row = completions_of(job.output).iloc[4]
    assert (row.question_id, row.sample_index, row.question) == ("toy-1", 1, QUESTIONS[1].question)
    assert (
        row.prompt.removeprefix(SYSTEM) == "<|im_start|>user\nWhat is 1 + 1? Box it.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row.finish_reason in ("stop", "length") and 1 <= row.token_count <= 12


class _Stopped(Exception):
    pass


def stops_after(backend, count):
    """A backend that dies after `count` answers, and the number that it was asked for."""

    class Dying:
        environment = backend.environment
        asked = 0

        def generate(self, requests):
            Dying.asked = len(requests)
            for done, answer in enumerate(backend.generate(requests)):
                if done == count:
                    raise _Stopped
                yield answer

    return Dying()


def test_what_was_finished_is_not_made_again(job, backend, tmp_path):
    generate(job, backend)
    expected = completions_of(job.output)
    again = dataclasses.replace(job, output=tmp_path / "again.parquet")
    for already, count in ((0, 5), (5, 9)):
        dying = stops_after(backend, count)
        with pytest.raises(_Stopped):
            generate(again, dying)
        assert dying.asked == 21 - already
        assert not again.output.exists()
    last = stops_after(backend, 99)
    generate(again, last)
    assert last.asked == 7
    assert completions_of(again.output).equals(expected)
    assert not (tmp_path / "again.parquet.parts").exists()


def test_parts_of_other_settings_are_not_used(job, backend, model_dir, tmp_path, capsys):
    with pytest.raises(_Stopped):
        generate(job, stops_after(backend, 8))
    other_model = make_tiny_model(tmp_path / "other", seed=1)
    changes = [
        {"seed": 2},
        {"run": "other"},
        {"samples": 2},
        {"protocol": PROTOCOL.model_copy(update={"temperature": 0.5})},
        {"questions": [*QUESTIONS[:-1], Question("toy-6", "Who?", "me")]},
        {"model": str(other_model)},
        {"model_revision": "abc"},
    ]
    for change in changes:
        changed = dataclasses.replace(job, **change)
        dying = stops_after(backend, 0)
        with pytest.raises(_Stopped):
            generate(changed, dying)
        assert dying.asked == len(changed.questions) * changed.samples
    assert "made with other settings" in capsys.readouterr().err
    # What does not change the completions may change between tries.
    last = stops_after(backend, 99)
    generate(dataclasses.replace(job, batch_size=1, engine_options={}), last)
    assert last.asked == 13


def test_a_finished_output_is_left_as_it_is(job, backend, capsys):
    generate(job, backend)
    before = job.output.stat().st_mtime_ns
    generate(job, stops_after(backend, 0))
    assert job.output.stat().st_mtime_ns == before
    assert "already exists" in capsys.readouterr().err


def test_a_corrected_gold_does_not_ask_again(job, backend):
    with pytest.raises(_Stopped):
        generate(job, stops_after(backend, 8))
    corrected = [dataclasses.replace(QUESTIONS[0], answer="zero"), *QUESTIONS[1:]]
    last = stops_after(backend, 99)
    generate(dataclasses.replace(job, questions=corrected), last)
    assert last.asked == 13
    assert "answer" not in completions_of(job.output), "golds have one place, the benchmark's file"


def test_a_prompt_that_leaves_no_room_is_refused_before_a_model_is_loaded(job):
    long = dataclasses.replace(job, protocol=PROTOCOL.model_copy(update={"max_tokens": 4090}))
    with pytest.raises(UserError, match="holds 4,096 tokens, but the longest prompt plus max_tokens needs 4,1"):
        generate(long)


def test_shards_of_different_settings_do_not_mix(job, backend, tmp_path):
    generate(job, backend)
    other = dataclasses.replace(job, seed=2, output=tmp_path / "other.parquet")
    generate(other, backend)
    with pytest.raises(
        UserError, match=r"other.parquet and .*whole.parquet were made with different settings: they differ in seed"
    ):
        read_completions([job.output, other.output])


def test_a_shard_given_twice_is_refused(job, backend):
    generate(job, backend)
    with pytest.raises(UserError, match=r"21 samples occur twice.*toy question toy-0 sample 0"):
        read_completions([job.output, job.output])


def test_a_sample_found_in_two_parts_counts_once(tmp_path):
    row = dict.fromkeys(COLUMNS) | {"question_id": "q", "sample_index": 0, "completion": "a"}
    store = PartStore(tmp_path / "out.parquet", {"seed": 1})
    for environment in ({"device": "cpu"}, {"device": "gpu"}, {"device": "cpu"}):
        store.add([row], environment)
    rows, environments = store.read()
    assert list(rows) == [("q", 0)] and sorted(e["device"] for e in environments) == ["cpu", "gpu"]


def test_a_torn_part_is_made_again(job, backend, tmp_path, capsys):
    """What a lost node leaves must not fail every retry until somebody removes it."""
    whole = completions_of(generate(job, backend))
    again = dataclasses.replace(job, output=tmp_path / "again.parquet")
    store = PartStore(again.output, completions.comparable(completions.table_settings(job.output)))
    rows = whole.assign(model="tiny", model_revision=None).to_dict("records")
    before: set = set()
    for number, torn in enumerate((slice(0), slice(None), slice(4), slice(200), slice(-8))):
        store.add(rows[3 * number : 3 * number + 3], {"device": "cpu"})
        (part,) = set(store.folder.iterdir()) - before
        before.add(part)
        part.write_bytes(part.read_bytes()[torn])
    generate(again, backend)
    assert capsys.readouterr().err.count("is damaged and is generated again") == 4
    assert completions_of(again.output).equals(whole)
    assert not store.root.exists()


def test_a_torn_output_is_made_again(job, backend, capsys):
    whole = completions_of(generate(job, backend))
    job.output.write_bytes(job.output.read_bytes()[:-20])
    assert completions_of(generate(job, backend)).equals(whole)
    assert "whole.parquet is damaged and is generated again" in capsys.readouterr().err


def test_a_downloaded_models_revision_stands_in_its_completions(job, model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "downloaded")
    files = {path.name: file_sha256(path) for path in folder.iterdir()}
    write_json(folder / "source.json", {"hub_id": "a/b", "revision": "c" * 40, "files": files})
    samples, settings = read_completions([generate(dataclasses.replace(job, model=str(folder)))])
    assert settings["model_revision"] == "c" * 40 and set(samples["model_revision"]) == {"c" * 40}


def test_a_retrained_model_at_the_same_path_is_another_model(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    before = completions.model_fingerprint(folder)
    assert completions.model_fingerprint(folder) == before
    make_tiny_model(folder, seed=3)
    assert completions.model_fingerprint(folder) != before


def write_benchmark(path, rows):
    import pandas

    pandas.DataFrame(rows, columns=["benchmark", "id", "question", "answer"]).to_parquet(path)
    return path


def test_a_benchmark_file_is_read_in_its_order(tmp_path):
    path = write_benchmark(tmp_path / "b.parquet", [("toy", "z", "Q?", "1"), ("toy", "a", "R?", "2")])
    assert read_benchmark(path) == ("toy", [Question("z", "Q?", "1"), Question("a", "R?", "2")])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("toy", "a", "Q?", "1"), ("toy", "a", "R?", "2")], "question id a occurs twice"),
        ([("toy", "a", "Q?", "1"), ("boy", "b", "R?", "2")], "must hold one benchmark, it holds boy, toy"),
        ([], "it holds no rows"),
        ([("toy", "a", "Q?", "1"), ("toy", "b", None, "2")], "has no question in 1 of 2 rows, the first of them row 2"),
        ([("toy", "a", "Q?", None)], "has no answer in 1 of 1 rows"),
    ],
)
def test_a_wrong_benchmark_file_is_named(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_benchmark(write_benchmark(tmp_path / "b.parquet", rows))


def test_what_is_no_parquet_is_named(tmp_path):
    path = tmp_path / "b.parquet"
    with pytest.raises(UserError, match="no such benchmark file"):
        read_benchmark(path)
    path.write_text("no")
    for read in (read_benchmark, lambda file: read_completions([file])):
        with pytest.raises(UserError, match="is not a Parquet file"):
            read(path)


def test_the_command_line_generates(job, model_dir, tmp_path):
    from justrl.cli.main import main as justrl

    path = write_benchmark(tmp_path / "b.parquet", [("toy", q.id, q.question, q.answer) for q in QUESTIONS])
    output = tmp_path / "cli.parquet"
    protocol = json.dumps({k: v for k, v in PROTOCOL.as_dict().items() if k != "samples"})
    arguments = ["--model", model_dir, "--benchmark", path, "--protocol", protocol, "--samples", 3, "--run", "run@10"]
    arguments += ["--seed", 1, "--shard", 1, "--shards", 2, "--backend", "transformers", "--dtype", "float64"]
    justrl(["generate", *map(str, arguments), "--output", str(output)])
    generate(dataclasses.replace(job, shard=1, shards=2))
    assert completions_of(output).equals(completions_of(job.output))


def test_one_command_answers_several_benchmarks_as_one_each_does(model_dir, tmp_path):
    from justrl.cli.main import main as justrl

    names = ("toy", "other")
    for name in names:
        write_benchmark(tmp_path / f"{name}.parquet", [(name, q.id, q.question, q.answer) for q in QUESTIONS])
    protocol = json.dumps({k: v for k, v in PROTOCOL.as_dict().items() if k != "samples"})
    common = f"generate --model {model_dir} --run r@1 --seed 1 --samples 2 --backend transformers --protocol".split()
    files = {name: (str(tmp_path / f"{name}.parquet"), str(tmp_path / f"{name}-one.parquet")) for name in names}
    for benchmark, output in files.values():
        justrl([*common, protocol, "--benchmark", benchmark, "--output", output])
    together = [str(tmp_path / f"{name}-both.parquet") for name in names]
    justrl([*common, protocol, "--benchmark", *(file for file, _ in files.values()), "--output", *together])
    for output, (_, alone) in zip(together, files.values(), strict=True):
        assert completions_of(Path(output)).equals(completions_of(Path(alone)))
