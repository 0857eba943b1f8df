"""The experiment's configuration: what the paper says, what is refused, and how overlays are merged."""

import pytest
import yaml

from justrl import config as experiment
from justrl.errors import UserError


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
    assert experiment.recipe_of(paper, run)[key] == value


def test_runs_are_the_papers(paper):
    assert {name: run["steps"] for name, run in paper["runs"].items() if run["enabled"]} == {
        "deepseek": 4380,
        "nemotron": 3440,
    }
    assert sum(paper["benchmarks"][name]["rows"] for name in paper["evaluation"]["benchmarks"]) == 1646


def test_ablations_change_only_what_the_paper_ablates(paper):
    base = experiment.recipe_of(paper, "deepseek")
    overlong = experiment.recipe_of(paper, "deepseek_overlong")
    robust = experiment.recipe_of(paper, "deepseek_overlong_robust")
    penalty = {"enabled": True, "buffer": 4096, "factor": 1.0}
    assert overlong == base | {"overlong_penalty": penalty}
    assert robust == base | {"overlong_penalty": penalty, "reward": "robust"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.learning_rat=2e-6", "unknown key 'learning_rat': did you mean learning_rate?"),
        ("runs.deepseek.steps=4390", "runs.deepseek.steps must be a multiple of segment_steps (60), got 4390"),
        ("runs.deepseek.evaluate_every=100", "must be a multiple of segment_steps (60), got 100"),
        ("recipe.prompts_per_step=100", "mini_batch_prompts (64) must divide prompts_per_step (100)"),
        ("recipe.kl_coefficient=0.001", "2512.16649"),
        ("recipe.entropy_coefficient=0.001", "2512.16649"),
        ("recipe.max_response_length=131072", "do not fit the context_length of models.deepseek (131072)"),
        ("runs.deepseek_overlong.recipe.overlong_penalty.buffer=1", "unknown key 'buffer'"),
        ("recipe.overlong_penalty.buffer=20000", "overlong_penalty.buffer (20000) must be below"),
        ("runs.deepseek.model=depseek", "no such entry in models: depseek: did you mean deepseek?"),
        ("evaluation.benchmarks=[aime, aimee]", "no benchmark aimee: did you mean aime"),
        ("evaluation.protocol=papr", "did you mean paper?"),
        ("evaluation.headline_grader=mode", "is not among the graders that run"),
        ("models.deepseek.source=cloud", "'cloud' is none of hub, taught"),
        ("hardware.gpus_per_node=7", "must be a multiple of the 7 GPUs"),
        ("seed", "write it as dotted.key=value"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(UserError) as caught:
        experiment.load(overrides=[override])
    assert message in str(caught.value)


def test_unknown_keys_and_textual_numbers_are_explained(paper):
    broken = experiment.merge(paper, {"recipe": {"learnin_rate": 1.0, "learning_rate": "1e-6"}})
    broken = experiment.merge(broken, {"benchmarks": {"aime": {"row": 30}}})
    with pytest.raises(UserError) as caught:
        experiment.validate(broken)
    message = str(caught.value)
    assert "unknown key learnin_rate in recipe: did you mean learning_rate?" in message
    assert "unknown key row in benchmarks.aime: did you mean rows?" in message
    assert "YAML reads 1e-6 as text; write 1.0e-6" in message


def test_every_schema_key_is_described(root):
    schema = yaml.safe_load((root / "workflow/schemas/config.schema.yaml").read_text())

    def undescribed(node, path):
        for key, value in node.get("properties", {}).items():
            if "$ref" not in value and "description" not in value and value.get("type") != "object":
                yield f"{path}.{key}"
            yield from undescribed(value, f"{path}.{key}")

    places = [("", schema), *((f"$defs.{name}", value) for name, value in schema["$defs"].items())]
    assert [key for path, node in places for key in undescribed(node, path)] == []


def test_overlays_merge_in_order(tmp_path):
    (tmp_path / "low.yaml").write_text("seed: 1\nrecipe: {learning_rate: 2.0e-6, temperature: 0.9}\n")
    (tmp_path / "high.yaml").write_text(f"extends: {tmp_path}/low.yaml\nrecipe: {{learning_rate: 3.0e-6}}\n")
    config = experiment.load([tmp_path / "high.yaml"], ["seed=2"])
    assert (config["seed"], config["recipe"]["learning_rate"], config["recipe"]["temperature"]) == (2, 3e-6, 0.9)


def test_circular_overlays_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text(f"extends: {tmp_path}/b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"extends: {tmp_path}/a.yaml\n")
    with pytest.raises(UserError, match="circle"):
        experiment.load([tmp_path / "a.yaml"])


@pytest.mark.parametrize(("text", "value"), [("1e-6", 1e-6), ("2E3", 2000.0), ("true", True), ("[1, 2]", [1, 2])])
def test_override_values_are_read_as_meant(text, value):
    assert experiment.apply_overrides({"key": None}, [f"key={text}"]) == {"key": value}


def test_segments_and_checkpoints_cover_the_run(paper):
    run = paper["runs"]["deepseek"]
    ends = experiment.segment_ends(run)
    assert (ends[0], ends[-1], len(ends)) == (60, 4380, 73)
    assert set(experiment.evaluated_steps(run)) <= set(ends)
    assert experiment.evaluated_steps(run)[-1] == 4380


def test_the_mini_overlay_keeps_the_recipe_but_for_its_sizes_and_rate(root, paper):
    mini = experiment.load([root / "mini/experiment.yaml"])
    changed = {key for key, value in mini["recipe"].items() if value != paper["recipe"][key]}
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
    }
    assert mini["experiment"] == "mini" and mini["pathvars"]["results"] == "results/mini"
