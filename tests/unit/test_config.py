"""The experiment's configuration: what the paper says, what is refused, and how overlays are merged."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from justrl import config as experiment
from justrl.config import files as config_files
from justrl.errors import UserError
from justrl.workflow import config_snapshots, paper_check


@pytest.fixture(scope="module")
def paper():
    return experiment.load()


# Table 2 of the paper, and the two runs' lengths.
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompts_per_step", 256),
        ("rollouts_per_prompt", 8),
        ("mini_batch_prompts", 64),
        ("micro_batch_per_gpu", 1),
        ("clip_ratio_low", 0.2),
        ("clip_ratio_high", 0.28),
        ("learning_rate", 1e-6),
        ("kl_coefficient", 0),
        ("entropy_coefficient", 0),
        ("max_prompt_length", 1024),
        ("max_response_length", 15360),
        ("temperature", 1.0),
        ("reward", "paper"),
    ],
)
@pytest.mark.parametrize("run", ["deepseek", "nemotron"])
def test_recipe_is_the_papers(paper, run, key, value):
    assert getattr(paper.runs[run].recipe, key) == value


def test_runs_are_the_papers(paper):
    assert {name: paper.runs[name].steps for name in paper.enabled} == {
        "deepseek": 4380,
        "nemotron": 3440,
    }
    assert sum(paper.benchmarks[name].rows for name in paper.evaluation.benchmarks) == 1646


def test_ablations_change_only_what_the_paper_ablates(paper):
    names = ("deepseek", "deepseek_overlong", "deepseek_overlong_robust")
    base, overlong, robust = (paper.runs[name].recipe.as_dict() for name in names)
    penalty = {"enabled": True, "buffer": 4096, "factor": 1.0}
    assert overlong == base | {"overlong_penalty": penalty}
    assert robust == base | {"overlong_penalty": penalty, "reward": "robust"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.learning_rat=2e-6", "unknown key 'learning_rat': did you mean learning_rate?"),
        ("recipe.lr=2e-6", "unknown key 'lr': did you mean learning_rate?"),
        ("runs.deepseek.zzz=1", "evaluate_every, recipe, evaluate, seeds, seed)"),
        ("runs.deepseek.steps=4390", "runs.deepseek.steps must be a multiple of segment_steps (60), got 4390"),
        ("runs.deepseek.evaluate_every=100", "must be a multiple of segment_steps (60), got 100"),
        ("recipe.prompts_per_step=100", "mini_batch_prompts (64) must divide prompts_per_step (100)"),
        ("recipe.kl_coefficient=0.001", "2512.16649"),
        ("recipe.entropy_coefficient=0.001", "2512.16649"),
        ("recipe.loss_aggregation=token-median", "recipe.loss_aggregation: input should be 'token-mean'"),
        ("recipe.loss_aggregation=seq-mean-token-mean", "loss_aggregation: loss vanilla requires token-mean: set"),
        ("recipe.loss=grpo", "recipe.loss: input should be 'vanilla', 'dr_grpo' or 'gspo', got 'grpo'"),
        ("recipe.clip_ratio_c=1.0", "recipe.clip_ratio_c: input should be greater than 1"),
        ("recipe.dtype=float16", "recipe.dtype: input should be 'bfloat16' or 'float32'"),
        ("recipe.algorithm=reinforce", "recipe.algorithm: input should be 'grpo'"),
        ("recipe.prompts_per_step=256.5", "recipe.prompts_per_step: input should be a valid integer"),
        ("recipe.prompts_per_step=true", "recipe.prompts_per_step: must be a number, got True"),
        ("recipe.gradient_clip=.inf", "recipe.gradient_clip: must be a finite number, got inf"),
        ("runs.deepseek.enabled=1", "runs.deepseek.enabled: must be true or false, got 1"),
        ("evaluation.benchmarks=[aime, aime]", "evaluation.benchmarks: aime is listed twice"),
        ("recipe.max_response_length=131072", "do not fit the context_length of models.deepseek (131072)"),
        ("runs.deepseek_overlong.recipe.overlong_penalty.bufer=1", "unknown key 'bufer'"),
        ("hardware.rollout=vllm", "unknown key 'rollout': did you mean rollouts?"),
        ("runs.deepseek.recipe.learning_rat=1", "unknown key 'learning_rat'"),
        ("models.depseek.hub_id=a/b", "unknown key 'depseek': did you mean deepseek?"),
        ("models.depseek={source: hub}", "unknown key 'depseek': did you mean deepseek?"),
        ("runs.deepseek.model=depseek", "no such entry in models: depseek: did you mean deepseek?"),
        ("evaluation.benchmarks=[aime, aimee]", "no benchmark aimee: did you mean aime"),
        ("evaluation.protocol=papr", "did you mean paper?"),
        ("evaluation.headline_grader=mode", "is not one of the enabled graders"),
        ("models.deepseek.source=cloud", "'cloud' is not one of hub, local, tiny"),
        ("hardware.gpus_per_node=7", "must be a multiple of the 7 GPUs"),
        ("seed", "write it as dotted.key=value"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(UserError) as caught:
        experiment.load(overrides=[override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "aggregation"),
    [("vanilla", "token-mean"), ("dr_grpo", "seq-mean-token-sum-norm"), ("gspo", "seq-mean-token-mean")],
)
def test_a_loss_brings_its_aggregation(loss, aggregation):
    """run.json states both, and is read again as it is; a run's own loss leaves the others theirs."""
    changes = {"runs": {"deepseek_overlong": {"recipe": {"loss": loss}}}}
    given = experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))
    described = given.described("deepseek_overlong")
    assert (described.recipe.loss, described.recipe.loss_aggregation) == (loss, aggregation)
    assert experiment.read_part(experiment.RunDescription, described.model_dump_json(), "run.json") == described
    assert (given.recipe.loss, given.runs["deepseek"].recipe.loss_aggregation) == ("vanilla", "token-mean")


def test_a_loss_that_contradicts_the_common_aggregation_is_named():
    changes = {"recipe": {"loss_aggregation": "token-mean"}, "runs": {"deepseek": {"recipe": {"loss": "gspo"}}}}
    with pytest.raises(UserError) as caught:
        experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))
    assert str(caught.value).startswith(
        "config: runs.deepseek.recipe.loss_aggregation: loss gspo requires seq-mean-token-mean: set this to null"
    )


def test_each_problem_is_a_line_of_its_own():
    changes = {
        "recipe": {"learnin_rate": 1.0, "learning_rate": "fast"},
        "benchmarks": {"aime": {"row": 30}},
        "runs": {"deepseek": {"recipe": {"clip_ratio_hig": 0.3}, "steps": None}},
        "hub": {"offline": "maybe"},
    }
    with pytest.raises(UserError) as caught:
        experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))
    lines = str(caught.value).splitlines()
    # A problem of the common recipe is told once, not for each of the four runs that share it.
    assert len(lines) == 6
    for sentence in (
        "unknown key learnin_rate in recipe: did you mean learning_rate?",
        "unknown key row in benchmarks.aime: did you mean rows?",
        "unknown key clip_ratio_hig in runs.deepseek.recipe: did you mean clip_ratio_high?",
        "recipe.learning_rate: input should be a valid number",
        "runs.deepseek.steps: input should be a valid integer, got None (Training steps.)",
        "hub.offline: must be true or false, got 'maybe'",
    ):
        assert any(sentence in line for line in lines), (sentence, lines)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"runs": {"deepseek": {"lr": 1e-6}}}, "lr in runs.deepseek: did you mean recipe.learning_rate?"),
        ({"runs": {"deepseek": {"loss": "gspo"}}}, "loss in runs.deepseek: did you mean recipe.loss?"),
        ({"recipe": {"max_grad_norm": 1.0}}, "max_grad_norm in recipe: did you mean gradient_clip?"),
        ({"group_size": 8}, "group_size in the configuration: did you mean recipe.rollouts_per_prompt?"),
    ],
)
def test_a_key_with_the_name_of_another_trainer_or_outside_the_recipe_is_answered_by_ours(changes, sentence):
    with pytest.raises(UserError) as caught:
        experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))
    assert sentence in str(caught.value)


def test_a_hub_id_without_an_owner_is_answered_in_words():
    changes = {"external": {"mine": {"model": "my_model"}}}
    with pytest.raises(UserError, match=r"external.mine.model: must be a hub id, owner/name, got 'my_model' \(Hub id"):
        experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))


def test_numbers_in_text_are_converted_as_the_command_line_gives_them():
    changes = {"recipe": {"learning_rate": "1e-5", "prompts_per_step": "128"}, "hub": {"offline": "true"}}
    given = experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))
    assert (given.recipe.learning_rate, given.recipe.prompts_per_step, given.hub.offline) == (1e-5, 128, True)
    assert given.runs["deepseek"].recipe.prompts_per_step == 128
    assert experiment.load(overrides=["recipe.prompts_per_step=128.0"]).recipe.prompts_per_step == 128


def test_a_penalty_that_begins_before_the_response_is_refused_where_it_is_on():
    assert experiment.load(overrides=["recipe.overlong_penalty.buffer=20000"])
    with pytest.raises(UserError, match=r"overlong_penalty.buffer \(20000\) must be below max_response_length"):
        experiment.load(overrides=["recipe.overlong_penalty.buffer=20000", "runs.deepseek_overlong.enabled=true"])


def test_what_is_off_may_contradict_itself_until_it_is_asked_for():
    given = experiment.load(overrides=["runs.deepseek_overlong.steps=3001"])
    (problem,) = given.run_contradictions("deepseek_overlong")
    assert "runs.deepseek_overlong.steps must be a multiple of segment_steps (60), got 3001" in problem


def test_every_field_is_described():
    undescribed = []
    for part in experiment.Part.__subclasses__():
        if part is not experiment.RunDescription:
            for name, field in part.model_fields.items():
                whole = isinstance(field.annotation, type) and issubclass(field.annotation, experiment.Part)
                if not field.description and not whole:
                    undescribed.append(f"{part.__name__}.{name}")
    assert undescribed == []


def test_the_schema_file_takes_the_papers_experiment_and_refuses_an_unknown_key(root):
    written = yaml.safe_load((root / "workflow/schemas/config.schema.yaml").read_text())
    validator = jsonschema.Draft202012Validator(written)
    assert list(validator.iter_errors(config_files.read())) == []
    assert list(validator.iter_errors(config_files.read([root / "mini/verl.yaml"]))) == []
    unknown = config_files.merge(config_files.read(), {"recipe": {"learnin_rate": 1}})
    assert [error.validator for error in validator.iter_errors(unknown)] == ["additionalProperties"]
    for change in (
        {"experiment": "mini\n"},
        {"figures": {"both\n": []}},
        {"models": {"deepseek": {"hub_id": "a/b\n"}}},
    ):
        assert not validator.is_valid(config_files.merge(config_files.read(), change)), change


def test_overlays_merge_in_order(tmp_path):
    (tmp_path / "low.yaml").write_text("seed: 1\nrecipe: {learning_rate: 2.0e-6, temperature: 0.9}\n")
    (tmp_path / "high.yaml").write_text(f"extends: {tmp_path}/low.yaml\nrecipe: {{learning_rate: 3.0e-6}}\n")
    given = experiment.load([tmp_path / "high.yaml"], ["seed=2"])
    assert (given.seed, given.recipe.learning_rate, given.recipe.temperature) == (2, 3e-6, 0.9)


def test_another_source_replaces_the_whole_entry(tmp_path):
    """The hub's own keys, such as its revision, are unknown to a file."""
    (tmp_path / "mine.yaml").write_text("experiment: mine\nbenchmarks: {math500: {source: local, path: my.jsonl}}\n")
    mine = experiment.load([tmp_path / "mine.yaml"]).benchmarks["math500"]
    assert (mine.source, mine.path, mine.label) == ("local", "my.jsonl", "math500")


def test_braces_in_a_folder_are_refused_by_their_key():
    """Snakemake would take them for a wildcard, and name no key."""
    with pytest.raises(UserError, match=r"pathvars\.results: .* got 'results/\{x\}'"):
        experiment.Experiment.from_mapping(
            config_files.merge(config_files.read(), {"pathvars": {"results": "results/{x}"}})
        )


def test_circular_overlays_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text(f"extends: {tmp_path}/b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"extends: {tmp_path}/a.yaml\n")
    with pytest.raises(UserError, match="circle"):
        experiment.load([tmp_path / "a.yaml"])


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "recipe: {learning_rate: 1.0e-5}\nseed: 1\nrecipe: {kl: 1}\n",
            "line 3: the key recipe is given twice, first in line 1",
        ),
        ("a:\n  - b: {c: 1,\n      c: 2}\n", "line 3: the key c is given twice, first in line 2"),
        ("a: !!set {x}\n", "line 1: the tag"),
        ("a: !!python/object/apply:os.system [x]\n", "line 1: the tag"),
        ("a: &r {x: *r}\n", "line 1: .r is inside of what it names"),
        ("a: *r\n", "line 1: .r names nothing"),
        (BOMB, "what anchors repeat included"),
        ("x: " + "[" * 100_000 + "]" * 100_000, "line 1: nested deeper than 40 levels"),
        ("x: &a0 [1]\n" + "".join(f"y{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000)), "or 40 levels"),
        ("seed: " + "9" * 5000, "line 1: a number of 5,000 digits"),
        ('# ä\nx: "caf\xe9"\n'.encode("latin-1"), "line 1: not UTF-8"),
        ("seed: 1\n".encode("utf-16"), "line 1: not UTF-8"),
        ("a: 1\n---\na: 2\n", "line 2: a second YAML document"),
        ("[1, 2]: x\n", "line 1: a key is one word"),
        ("#" * 2**20 + "\nseed: 1", "larger than"),
        ("extends: [a, b]\n", "`extends` takes one file"),
        ("extends: 0\n", "`extends` takes one file"),
        ("extends: mini\n", "mini is not a file"),
        ('extends: "a\\0b"\n', "cannot be read"),
        ("extends: " + "x" * 5000, "cannot be read"),
    ],
)
def test_odd_configuration_files_end_in_a_sentence(tmp_path, text, said):
    (tmp_path / "odd.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as caught:
        experiment.load([tmp_path / "odd.yaml"])
    assert len(str(caught.value)) < 500


def test_what_is_no_file_and_a_long_chain_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match="is not a file"):
            config_files.read_overlay(path)
    for number in range(3000):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {tmp_path}/{number + 1}.yaml\n")
    with pytest.raises(UserError, match="more than 20 files extend each other"):
        config_files.read_overlay(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2.0e-6", 2e-6),
        ("1e-6", 1e-6),
        ("-.inf", float("-inf")),
        ("-3", -3),
        ("true", True),
        ("null", None),
        ("", None),
        ("[1, 2]", [1, 2]),
        ("010", "010"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("2025-01-01", "2025-01-01"),
        ('"1"', "1"),
        ("{on: off, 1: x}", {"on": "off", "1": "x"}),
        ("[&a {x: 1, y: 2}, {<<: *a, x: 3}]", [{"x": 1, "y": 2}, {"x": 3, "y": 2}]),
    ],
)
def test_override_values_are_read_as_yaml(text, value):
    assert config_files.apply_overrides({"key": None}, [f"key={text}"]) == {"key": value}


def test_a_key_that_config_yaml_leaves_out_is_set_as_any_other():
    words = ["hardware.rollouts=vllm", "hardware.rollouts_kept=0", "runs.deepseek.seeds=[1, 2]", "recipe.staleness=1"]
    words += ["runs.deepseek_overlong.recipe.overlong_penalty.buffer=100", "hardware.engine.max_num_seqs=64"]
    given = experiment.load(overrides=words)
    assert given.hardware.rollouts == "vllm" and given.hardware.rollouts_kept == 0
    assert given.runs["deepseek_overlong"].recipe.overlong_penalty.buffer == 100
    assert config_files.apply_overrides({}, ["staleness=1"], "recipe") == {"staleness": 1}


def test_segments_and_checkpoints_cover_the_run(paper):
    run = paper.runs["deepseek"]
    assert (run.segment_ends[0], run.segment_ends[-1], len(run.segment_ends)) == (60, 4380, 73)
    assert set(run.evaluated_steps) <= set(run.segment_ends)
    assert run.evaluated_steps[-1] == 4380


def test_the_mini_overlay_keeps_the_recipe_but_for_its_sizes_and_rate(root, paper):
    mini = experiment.load([root / "mini/experiment.yaml"])
    changed = {key for key, value in mini.recipe if value != getattr(paper.recipe, key)}
    assert changed <= {
        "prompts_per_step",
        "mini_batch_prompts",
        "micro_batch_per_gpu",
        "learning_rate",
        "warmup_steps",
        "max_prompt_length",
        "max_response_length",
        "overlong_penalty",
        "dtype",
        "gradient_checkpointing",
        "alarms",  # they change no step
    }
    assert mini.experiment == "mini" and str(mini.results) == "results/mini"


@pytest.mark.parametrize("key", ["prompt_separator", "prompt_suffix", "max_prompt_length"])
def test_what_the_training_data_is_made_with_is_not_a_runs_own(key, tmp_path):
    """The data is prepared once for all runs: a run's own suffix would be named in its result and never be used."""
    value = 512 if key == "max_prompt_length" else "Box it."
    assert experiment.load(overrides=[f"recipe.{key}={value}"])
    overlay = tmp_path / "own.yaml"
    overlay.write_text(f"runs: {{deepseek: {{recipe: {{{key}: {value}}}}}}}")
    with pytest.raises(UserError, match=rf"runs.deepseek.recipe.{key}: the training data is prepared with recipe"):
        experiment.load([overlay])


def test_the_letter_of_the_authors_run_takes_the_file_as_it_is_released():
    config = experiment.load()
    run = config.runs["deepseek_literal"]
    data = config.datasets[run.dataset]
    assert not (run.enabled or data.remove_wrapper or data.remove_duplicates or data.remove_contradictions)
    assert data.hub_id == config.datasets["dapo"].hub_id and data.revision == config.datasets["dapo"].revision
    # One pass: the steps that they made take fewer rows than 100 copies of the questions have.
    assert run.steps * run.recipe.prompts_per_step < 1_791_700


def test_a_step_ahead_is_a_run_of_its_own_and_only_verls():
    config = experiment.load()
    ahead, paper = config.runs["deepseek_async"], config.runs["deepseek"]
    assert ahead.recipe == paper.recipe.model_copy(update={"staleness": 1}) and not ahead.enabled
    assert paper.recipe.staleness == 0 and config.described("deepseek_async").recipe.staleness == 1
    with pytest.raises(UserError, match=r"runs.deepseek: recipe.staleness = 1 is supported by verl only"):
        experiment.load(overrides=["recipe.staleness=1", "runs.deepseek.engine=reference"])


def test_nodes_that_an_engine_would_leave_idle_are_not_asked_for():
    overrides = ["hardware.nodes=2", "hardware.gpus_per_node=8"]
    assert experiment.load(overrides=overrides)
    with pytest.raises(UserError, match=r"runs.deepseek: the reference engine uses one node, but hardware.nodes = 2"):
        experiment.load(overrides=[*overrides, "runs.deepseek.engine=reference"])


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "mini\n"},
        {"figures": {"both\n": []}},
        {"models": {"deepseek": {"hub_id": "../secret"}}},
        {"models": {"deepseek": {"hub_id": "owner/.."}}},
        {"evaluation": {"model_grader": {"model": "../secret"}}},
        {"external": {"theirs": {"model": "/etc/passwd"}}},
        {"external": {"theirs": {"model": "owner/name", "family": "a/b"}}},
        {"runs": {"deepseek": {"family": "../../x"}}},
    ],
)
def test_names_that_become_paths_are_names(change):
    with pytest.raises(UserError, match=r"must have lower-case letters|must be a hub id"):
        experiment.Experiment.from_mapping(config_files.merge(config_files.read(), change))


@pytest.mark.parametrize("folder", ["results", "results/../results", "./results/", "{here}/results"])
def test_the_papers_folder_is_known_however_it_is_spelled(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    mini = experiment.load(overrides=["experiment=mini"])
    with pytest.raises(UserError, match="where the paper's experiment lives"):
        paper_check.check_paper(mini, Path(folder.format(here=tmp_path)))
    paper_check.check_paper(mini, Path("results/mini"))


def test_a_run_cannot_take_the_name_of_a_canary():
    """It would be the canary then, and its own steps would never be trained."""
    paper = experiment.load()
    named = paper.model_copy(update={"runs": paper.runs | {"canary_nemotron": paper.runs["deepseek"]}})
    with pytest.raises(UserError, match=r"runs\.canary_nemotron: the name is reserved for the canary of nemotron"):
        named.with_canaries()


def test_a_run_of_before_a_key_was_there_had_its_default(paper):
    described = paper.described("deepseek").as_dict()
    before = {**described, "recipe": {key: value for key, value in described["recipe"].items() if key != "data_seed"}}
    assert experiment.with_defaults(before) == described
    assert experiment.with_defaults({"recipe": {}}) == {"recipe": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlays": {"both": []}}, "unknown key overlays in the configuration: it is called figures now"),
        ({"keep_exports": "all"}, "unknown key keep_exports in the configuration: it is called keep_checkpoints now"),
        (
            {"evaluation": {"own_graders": {}}},
            "unknown key own_graders in evaluation: it is called custom_graders now",
        ),
        ({"models": {"small": {"source": "taught"}}}, "'taught' is not one of hub, local, tiny: it is called tiny now"),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_its_name_today(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        experiment.Experiment.from_mapping(config_files.merge(config_files.read(), changes))


def test_graders_of_a_file_are_read_by_their_earlier_key(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: mine\nevaluation: {own_graders: {mine: {file: my_grader.py, function: grade}}}\n")
    (tmp_path / "my_grader.py").write_text("def grade(completion, answer, row):\n    return True\n")
    assert config_files.read([file])["evaluation"]["custom_graders"]["mine"]["function"] == "grade"


def test_an_override_of_an_earlier_key_is_refused_with_its_name_today():
    with pytest.raises(UserError, match="unknown key 'keep_exports': it is called keep_checkpoints now"):
        experiment.load(overrides=["keep_exports=all"])


def test_what_an_earlier_version_wrote_is_read_with_todays_names():
    mini = experiment.load(["mini/experiment.yaml"])
    now = mini.described("mini").as_dict()
    before = {**now, "model": {**now["model"], "source": "taught"}}
    assert (
        experiment.with_defaults(before)
        == experiment.read_part(experiment.RunDescription, before, "r").as_dict()
        == now
    )
    result = {"model": before, "own_graders": {"mine": {}}}
    assert experiment.with_defaults(result) == {"model": now, "custom_graders": {"mine": {}}}
    assert experiment.with_defaults({"model": before["model"]}) == {"model": now["model"]}


def test_the_configuration_of_an_earlier_start_is_read_with_todays_names(tmp_path):
    """The next start neither lists these names as changes nor writes another snapshot."""
    config = config_files.read(["mini/experiment.yaml"])
    before = {**config, "overlays": config["figures"], "keep_exports": config["keep_checkpoints"]}
    before = {key: value for key, value in before.items() if key not in ("figures", "keep_checkpoints")}
    before["models"] = config["models"] | {"tiny": {**config["models"]["tiny"], "source": "taught"}}
    file = tmp_path / "experiments/0001.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"config": before, "segment_ends": {}}))
    document = {"config": config, "segment_ends": {}}
    assert config_snapshots.read(file)[0] == config
    assert config_snapshots.file_of(document, tmp_path) == file
    assert list(config_snapshots.changes(document, tmp_path)) == []
