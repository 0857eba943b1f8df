"""What Snakemake says while it works: a real Snakemake with a workflow of seconds, in a log and in a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"
SNAKEFILE = '''
import sys
sys.path.insert(0, {package!r})
import snakemake_messages
snakemake_messages.install(workflow)

rule all:
    input: "slow.done", "quick.done"

rule train_segment:
    output: "runs/mini/segments/20/metrics.jsonl"
    log: "logs/train.log"
    shell:
        """
        mkdir -p runs/mini/work; echo "a note of the job" > {{log}}
        for step in 1 2 3; do
            echo '{{{{"step": '$step', "reward_mean": 0.5, "step_seconds": 60}}}}' >> runs/mini/work/metrics.jsonl
            echo "mini: step $step/20, reward +0.5" >> {{log}}
            sleep 1
        done
        cp runs/mini/work/metrics.jsonl {{output}}
        """

rule slow:
    input: "runs/mini/segments/20/metrics.jsonl"
    output: "{{name}}.done"
    wildcard_constraints: name="slow"
    log: "logs/{{name}}.log"
    shell: "sleep 3; echo ready > {{output}}"

rule quick:
    output: "{{name}}.done"
    wildcard_constraints: name="quick"
    log: "logs/{{name}}.log"
    shell: "{command}"
'''


@pytest.fixture
def folder(tmp_path):
    """A workflow of three jobs, one of which trains."""
    (tmp_path / "Snakefile").write_text(
        SNAKEFILE.format(package=str(WORKFLOW), command="echo of no log; touch {output}")
    )
    return tmp_path


def command(*options):
    return [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "rules", "host", "--nolock", *options]


def environment(**more):
    return os.environ | {"PYTHONPATH": str(WORKFLOW), "JUSTRL_PROGRESS_SECONDS": "1"} | more


def run(folder, *options, **more):
    return subprocess.run(
        command(*options), cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=600
    )


def in_terminal(folder, *options):
    """Status and output of a command whose standard streams are a terminal of 120 columns."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    with subprocess.Popen(
        command(*options), cwd=folder, env=environment(TERM="xterm"), stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        written = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            written += chunk
    os.close(master)
    return process.returncode, written.decode()


def test_in_a_log_each_job_has_a_line_at_its_begin_and_end_and_at_an_interval(folder):
    done = run(folder)
    assert done.returncode == 0, done.stderr
    lines = [line[9:] for line in done.stderr.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert "begun  train_segment (0 of 4 jobs)" in lines
    working = [line for line in lines if line.startswith("works  train_segment: step ")]
    assert working and re.search(r"step [123] of 20, reward \+0\.500, about 1[789] min left", working[0])
    assert any(re.match(r"works  slow slow: .* so far", line) for line in lines)
    (finished,) = [line for line in lines if line.startswith("done   train_segment")]
    assert re.search(r" in .*, reward \+0\.500 \(\d of 4 jobs\)", finished)
    assert done.stdout == "of no log\n"
    for noise in ("mini: step", "Select jobs", "localrule", "jobid", "Provided cores"):
        assert noise not in done.stderr
    assert "train_segment" in done.stderr.split("begun")[0]  # the table of jobs


def test_a_terminal_has_the_same_lines(folder):
    status, shown = in_terminal(folder)
    assert status == 0, shown
    assert re.search(r"works  train_segment: step [123] of 20, reward \+0\.500, about 1[789] min left", shown)
    assert "of no log" in shown and "\x1b[?25l" not in shown


@pytest.mark.parametrize("where", [run, in_terminal], ids=["log", "terminal"])
def test_what_fails_is_shown_as_snakemake_shows_it(folder, where):
    text = SNAKEFILE.format(package=str(WORKFLOW), command="echo the reason > {log}; exit 3")
    (folder / "Snakefile").write_text(text + '\nonerror:\n    print("last words", file=sys.stderr)\n')
    done = where(folder, "--show-failed-logs", "quick.done")
    status, shown = done if isinstance(done, tuple) else (done.returncode, done.stderr)
    assert status == 1
    assert "Error in rule quick:" in shown and "the reason" in shown and "logs/quick.log" in shown
    assert shown.index("the reason") < shown.index("last words")


@pytest.mark.parametrize("option", ["--verbose", "--printshellcmds", "--dry-run"])
def test_snakemakes_own_output_comes_back_where_it_is_asked_for(folder, option):
    done = run(folder, "quick.done", option)
    assert done.returncode == 0 and "begun" not in done.stdout + done.stderr


def test_it_is_a_plugin_that_snakemake_finds(folder):
    (folder / "Snakefile").write_text('rule quick:\n    output: "quick.done"\n    shell: "touch {output}"\n')
    done = run(folder, "quick.done", "--logger", "justrl")
    assert done.returncode == 0 and re.search(r"done   quick in .* \(1 of 1 jobs\)", done.stderr), done.stderr


@pytest.mark.parametrize("seconds", ["often", "0", "nan"])
def test_an_interval_that_is_none_is_refused_in_a_sentence(folder, seconds):
    done = run(folder, "quick.done", JUSTRL_PROGRESS_SECONDS=seconds)
    assert done.returncode == 1 and f"JUSTRL_PROGRESS_SECONDS is '{seconds}': set it to a number" in done.stderr
    assert "Traceback" not in done.stderr
