"""All nine real benchmarks through the rules of the paper, answered by the mini experiment's base model."""

import json
import shutil

import pandas as pd
import pytest
import yaml

FILES = {
    "aime": "AIME24",
    "aime25": "AIME25",
    "amc23": "AMC23",
    "math500": "MATH-500",
    "minerva": "Minerva",
    "olympiad": "Olympiad-Bench",
    "hmmt25": "HMMT25",
    "brumo25": "BRUMO25",
    "cmimc25": "CMIMC25",
}
# Short, since a model that has only seen sums has nothing to say; the benchmarks and every rule are the real ones.
OVERLAY = {
    "extends": "mini/experiment.yaml",
    "pathvars": {"results": "results/mini"},
    "protocols": {"paper": {"max_tokens": 8, "samples": 1}},
    "evaluation": {"benchmarks": list(FILES)},
}


@pytest.mark.timeout(1800)
def test_nine_real_benchmarks_flow_through(mini, make_workspace, real_benchmarks, tmp_path):
    (tmp_path / "project").mkdir()
    project = make_workspace(tmp_path / "project")
    # A copy: other tests look at the mini experiment as it was run.
    shutil.copytree(mini.folder / "results", project.folder / "results")
    config = yaml.safe_load((project.folder / "config.yaml").read_text())
    for name, file in FILES.items():
        folder = tmp_path / "mirror" / config["benchmarks"][name]["hub_id"]
        folder.mkdir(parents=True)
        shutil.copy(real_benchmarks / f"{file}.parquet", folder / "test.parquet")
    overlay = project.folder / "real.yaml"
    overlay.write_text(yaml.safe_dump(OVERLAY | {"hub": {"mirror": str(tmp_path / "mirror"), "offline": True}}))
    targets = [f"results/mini/{name}_mini@base.json" for name in FILES]
    project.run(*targets, "--profile", "mini", "--configfile", str(overlay))

    rows = {name: config["benchmarks"][name]["rows"] for name in FILES}
    for name, target in zip(FILES, targets, strict=True):
        result = json.loads((project.folder / target).read_text())
        assert result["n_questions"] == len(result["per_question"]) == rows[name]
        assert result["experiment"] == "mini"
        assert all(grader["avg_at_k"]["value"] <= 0.05 for grader in result["graders"].values())
        completions = pd.read_parquet(
            project.folder / f"results/mini/evaluations/mini@base/{name}/paper/completions/0-of-1.parquet"
        )
        assert len(completions) == rows[name] and completions["question_id"].is_unique
        # The prompt that was sent ends with the suffix, joined by the single space of the authors' evaluation.
        assert completions["prompt"].str.contains(config["protocols"]["paper"]["prompt_suffix"], regex=False).all()
