"""Rows whose sides run in processes of their own: symbolic grading, generation with vLLM."""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from work import ROOT, Timed, Work

from justrl.errors import UserError

BENCHMARKS = 4


def symbolic() -> Work:
    """Symbolic grading of an evaluation, beside math-verify called on each completion."""
    import symbolic_grading

    script = ROOT / "bench/symbolic_grading.py"

    def side(name: str) -> Timed:
        done = subprocess.run([sys.executable, script, name], capture_output=True, text=True, env=_environment())
        if done.returncode:
            raise UserError(f"{script.name} {name} failed: {done.stderr.strip()[-500:]}")
        told = json.loads(done.stdout)
        return Timed(told["verdicts"], told["seconds"], elapsed=told["elapsed"])

    samples = symbolic_grading.draw()
    return Work(
        f"symbolic grading, {len(samples):,} completions of {symbolic_grading.LENGTH:,} characters "
        f"(other verdicts, ours right: {', '.join(symbolic_grading.DIFFERENCES)})",
        "math-verify 0.9, one by one",
        lambda: side("ours"),
        lambda: side("theirs"),
        lambda one, other: symbolic_grading.agree(samples, one, other),
        "importing SymPy once, parsing each formula once",
        target=8.0,
        rounds=3,
    )


class _Engine:
    """A script of bench/ with its engine loaded, started at the first question and ended with this process.

    Raises UserError: vLLM is not installed.
    """

    def __init__(self, script: str) -> None:
        if not any(ROOT.glob(".venv-verl/lib/python*/site-packages/vllm/__init__.py")):
            raise UserError("vLLM is not installed (`make verl-env`)")
        self.command = [str(ROOT / ".venv-verl/bin/python"), str(ROOT / "bench" / script)]
        self.process: subprocess.Popen[str] | None = None

    def ask(self, what: str) -> dict[str, Any]:
        """Its answer. Raises UserError: the process is gone."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=_environment(),
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise UserError(f"the engine died: run {' '.join(self.command)} and write {what} to see why") from error

    def side(self, name: str) -> Timed:
        """What a side made."""
        told = self.ask(name)
        return Timed((told["tokens"], told["digest"]), told["seconds"], elapsed=told["elapsed"])


def generation() -> Work:
    """An evaluation's answers from vLLM, beside the authors' loop of a call for each seed, on one engine."""
    engine = _Engine("vllm_generation.py")
    return Work(
        "evaluation generation, vLLM, 30 questions x 8 seeds x at most 256 tokens, the same tokens",
        "a call of vLLM for each seed (the authors' loop)",
        lambda: engine.side("ours"),
        lambda: engine.side("theirs"),
        lambda one, other: one == other,
        "vLLM's own steps for 240 requests",
        target=2.4,
        rounds=5,
        library=lambda: engine.ask("share")["share"],
    )


def generation_and_judge() -> Work:
    """Answers and their verdicts: the judge of a finished benchmark beside the next one's answers, or after all."""
    generator, judge = _Engine("vllm_generation.py"), _Engine("vllm_judging.py")
    benchmarks = [f"drawn_{number}" for number in range(BENCHMARKS)]
    generating: list[float] = []

    def ours() -> Timed:
        started = time.perf_counter()
        with ThreadPoolExecutor(1) as beside:
            waiting = []
            for benchmark in benchmarks:
                made = generator.ask(f"ours {benchmark}")
                waiting.append((made, beside.submit(judge.ask, made["answers"])))
            results = [(made["digest"], verdicts.result()["digest"]) for made, verdicts in waiting]
        elapsed = time.perf_counter() - started
        generating.append(sum(made["elapsed"] for made, _ in waiting) / elapsed)
        return Timed(results, elapsed)

    def theirs() -> Timed:
        started = time.perf_counter()
        made = [generator.ask(f"theirs {benchmark}") for benchmark in benchmarks]
        verdicts = [judge.ask(one["answers"])["digest"] for one in made]
        results = [(one["digest"], verdict) for one, verdict in zip(made, verdicts, strict=True)]
        return Timed(results, time.perf_counter() - started)

    # Both engines are loaded, and have done the work once, before a clock runs.
    judge.ask(generator.ask("ours warm_up")["answers"])
    return Work(
        f"evaluation of {BENCHMARKS} benchmarks of 30 questions x 8 seeds, vLLM and a judge in vLLM, by the clock",
        "a call for each seed, then the judge (the authors' scripts)",
        ours,
        theirs,
        lambda one, other: one == other,
        "generation, were the judge free",
        target=3.0,
        rounds=5,
        library=lambda: statistics.median(generating),
    )


def _environment() -> dict[str, Any]:
    """This process's, with the project's modules and one thread, as for the other rows."""
    path = os.pathsep.join(filter(None, [str(ROOT / "workflow"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
