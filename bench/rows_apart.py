"""Benchmark rows whose two sides run in separate processes: symbolic grading, generation with vLLM."""

import json
import os
import subprocess
import sys
from typing import Any

from work import ROOT, Timed, Work

from justrl.errors import UserError


def symbolic() -> Work:
    """Symbolic grading of an evaluation, compared with math-verify called on each completion's last box."""
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
        "math-verify 0.9 given the last box, one by one",
        lambda: side("ours"),
        lambda: side("theirs"),
        lambda one, other: symbolic_grading.agree(samples, one, other),
        "importing SymPy once, parsing each formula once",
        target=2.0,
        rounds=3,
    )


class _Engine:
    """A script of bench/ with a loaded engine; starts at the first request and ends with this process.

    Raises UserError if vLLM is not installed.
    """

    def __init__(self, script: str) -> None:
        if not any(ROOT.glob(".venv-verl/lib/python*/site-packages/vllm/__init__.py")):
            raise UserError("vLLM is not installed (`make verl-env`)")
        self.command = [str(ROOT / ".venv-verl/bin/python"), str(ROOT / "bench" / script)]
        self.process: subprocess.Popen[str] | None = None

    def ask(self, what: str) -> dict[str, Any]:
        """Send a request and return the answer. Raises UserError if the process has ended."""
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
        """The result of one side."""
        told = self.ask(name)
        return Timed((told["tokens"], told["digest"]), told["seconds"], elapsed=told["elapsed"])


def generation() -> Work:
    """An evaluation's answers from vLLM, compared with a single call of vLLM with all requests, on one engine."""
    engine = _Engine("vllm_generation.py")
    return Work(
        "evaluation generation, vLLM, 30 questions x 8 seeds x at most 256 tokens, the same tokens, kept as they end",
        "one call of vLLM, kept at the end",
        lambda: engine.side("ours"),
        lambda: engine.side("theirs"),
        lambda one, other: one == other,
        "vLLM's own steps for 240 requests",
        target=1.0,
        rounds=5,
        library=lambda: engine.ask("share")["share"],
    )


def _environment() -> dict[str, Any]:
    """This process's environment, with the project's modules and one thread, as for the other rows."""
    path = os.pathsep.join(filter(None, [str(ROOT / "workflow"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
