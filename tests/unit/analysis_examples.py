"""Made-up metrics and results of realistic shape, for the tests of tables and figures. No number here is measured."""

import math
import random
from dataclasses import asdict

import numpy as np

from justrl.evaluation.statistics import avg_at_k, pass_at_k_curve, solve_counts

NINE = {
    "aime": (30, 32),
    "aime25": (30, 32),
    "amc23": (40, 32),
    "math500": (500, 4),
    "minerva": (272, 4),
    "olympiad": (674, 4),
    "hmmt25": (30, 32),
    "brumo25": (30, 32),
    "cmimc25": (40, 32),
}

# The values of the paper's protocol, as results say them.
PROTOCOL = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": -1,
    "max_tokens": 31744,
    "prompt_separator": " ",
    "prompt_suffix": "Please reason step by step, and put your final answer within \\boxed{}.",
}


def metrics_rows(steps, seed=0, first=1, scale="paper"):
    """Metrics of steps first..first+steps-1 that look like a training run."""
    source = random.Random(seed)
    rows = []
    for step in range(first, first + steps):
        progress = step / (first + steps)
        reward = -0.6 + 1.0 * (1 - math.exp(-4 * progress)) + source.gauss(0, 0.05)
        entropy = 1.3 + 0.1 * math.sin(step / 90) + source.gauss(0, 0.08)
        length = 4600 + 2900 * math.exp(-6 * progress) + source.gauss(0, 180)
        if scale == "mini":
            reward, entropy, length = (
                reward + 0.4,
                entropy / 6 * (1.2 - progress),
                22 - 4 * progress + source.gauss(0, 1),
            )
        rows.append(
            {
                "step": step,
                "reward_mean": reward,
                "accuracy": (reward + 1) / 2,
                "entropy": entropy / 0.68 if scale == "paper" else entropy,
                "entropy_as_published": entropy,
                "response_length_mean": length,
                "response_clip_ratio": max(0.0, 0.12 * math.exp(-5 * progress) + source.gauss(0, 0.01)),
                "grad_norm": abs(source.gauss(0.15, 0.03)),
                "clip_fraction": abs(source.gauss(0.002, 0.0005)),
                "lr": 1e-6 * min(1.0, step / 10),
                "tokens_per_second": source.gauss(9000, 400),
                "step_seconds": source.gauss(300, 20),
            }
        )
    return rows


def scores_with_mean(mean, questions, samples, seed=0):
    """Scores of 0 and 1 whose questions differ in difficulty as a benchmark's do, about `mean` on average."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.8 * mean + 1e-3, 0.8 * (1 - mean) + 1e-3, size=questions)
    chances = np.clip(chances + (mean - chances.mean()), 0, 1)
    return (rng.random((questions, samples)) < chances[:, None]).astype(int)


def result(benchmark, run, step, means, experiment="paper", questions=None, samples=None, seed=0, protocol="paper"):
    """A result file's content: `means` maps each grader to its accuracy, the first being the headline."""
    questions, samples = questions or NINE[benchmark][0], samples or NINE[benchmark][1]
    graders, rows = {}, [{"id": f"{benchmark}/{i}", "scores": {}} for i in range(questions)]
    for index, (grader, mean) in enumerate(means.items()):
        scores = scores_with_mean(mean, questions, samples, seed=seed + 100 * index)
        none, every = solve_counts(scores)
        graders[grader] = {
            "avg_at_k": asdict(avg_at_k(scores, resamples=1000)),
            "pass_at_k": {str(k): value for k, value in pass_at_k_curve(scores).items()},
            "solve_none": none,
            "solve_all": every,
        }
        for row, values in zip(rows, scores.tolist(), strict=True):
            row["scores"][grader] = values
    suffix = "" if step is None else "@base" if step == 0 else f"@{step}"
    return {
        "experiment": experiment,
        "name": run + suffix,
        "benchmark": benchmark,
        "model": run,
        "step": step,
        "protocol": {"name": protocol, **PROTOCOL},
        "headline_grader": next(iter(means)),
        "graders": graders,
        "n_questions": questions,
        "samples_per_question": samples,
        "per_question": rows,
    }
