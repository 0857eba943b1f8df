"""JustRL (arXiv 2512.16649), from data download to the comparison with the published scores.

snakemake --profile mini                    the whole workflow on a tiny model, on a CPU
snakemake --profile slurm                   the paper's experiment on a cluster
snakemake results/aime_deepseek.json        one benchmark of one run
snakemake golden --profile slurm            the released weights, without training
snakemake first_1000 --profile slurm        the paper's first 1,000 steps
"""

import os
import shlex
import signal
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27.1")

# Every job parses this file, so every job finds the package, whatever its environment. `current_basedir` is this file's
# own folder, which differs from the main workflow's if this is a module of another one.
HERE = str(workflow.current_basedir)
PACKAGE = f"{HERE}/workflow"
sys.path.insert(0, PACKAGE)
if set("{}") & set(HERE):
    raise WorkflowError(
        f"{HERE} has a brace in its name, which Snakemake reads as a wildcard: rename or move this folder"
    )

import ancient_inputs
import snakemake_messages
import slurm_executor

# Options that only show something: the output may be cut short, as by `| head`.
LOOKS = {
    "-n",
    "--dry-run",
    "--dryrun",
    "-l",
    "--list",
    "--list-rules",
    "--lt",
    "--list-target-rules",
    "-S",
    "--summary",
}
if LOOKS & set(sys.argv) and workflow.is_main_process:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

ancient_inputs.install()
slurm_executor.install()
if HERE == workflow.basedir:
    snakemake_messages.install(workflow)

# Standard error goes to the rule's log and to the terminal. The copying process survives the signals that end a job, so
# the job's last messages reach the log.
shell.prefix(
    f"export PYTHONPATH={shlex.quote(PACKAGE)}${{{{PYTHONPATH:+:$PYTHONPATH}}}} RAYON_NUM_THREADS=$OMP_NUM_THREADS; "
    # A list of all results can exceed the length limit of a command: `--results @<(listed FILES)` passes it as a file.
    + """listed() {{ [ $# = 0 ] || printf '%s\\n' "$@"; }}; """
    + """log_to() {{ trap '' HUP INT TERM; exec tee >&2 "$1"; }}; """
)


if HERE == workflow.basedir and not os.path.samefile(HERE, os.getcwd()):
    raise WorkflowError(
        f"Snakemake was started in {os.getcwd()}: start it in {HERE}, which has config.yaml and the profiles, or import "
        "the workflow as a module (docs/change.md)"
    )

# Jobs read the snapshot of their start (rules/experiment.smk), not a file that may be edited meanwhile.
if workflow.is_main_process:

    configfile: "config.yaml"


# Used only with `--sdm apptainer`; envs/justrl.def builds it.
container: "justrl.sif"


pathvars:
    logs="<results>/logs",
    timings="<results>/timings",


include: "rules/experiment.smk"
include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


report: "workflow/captions/workflow.rst"


onstart:
    slurm_executor.end_like_ctrl_c()


# Snakemake prints each failed job's command and log before this, so the reason could be a hundred lines up.
onerror:
    print("", *job_files.messages(failures()), sep="\n", file=sys.stderr)


localrules:
    all,
    data,
    canary,
    golden,
    first_1000,


rule all:
    """Run everything: training, evaluation, figures, tables, provenance."""
    default_target: True
    input:
        of(lambda: pages.wanted(LAYOUT, "all")),


rule data:
    """Download models, training data and benchmarks, for compute nodes without network."""
    input:
        LAYOUT.downloads(),


rule canary:
    """Train and evaluate a short trial of each enabled run; print the verdicts."""
    input:
        of(lambda: pages.wanted(LAYOUT, "canary")),
        verdicts=of(LAYOUT.canary_verdicts),
    log:
        "<logs>/canary.log",
    shell:
        "python -m justrl canary check {input.verdicts:q} 2> >(log_to {log:q})"


rule golden:
    """Evaluate released weights and base models on all benchmarks, without training."""
    input:
        of(lambda: pages.wanted(LAYOUT, "golden")),


rule first_1000:
    """Train the first 1,000 steps of each enabled run; the full run resumes from them."""
    input:
        of(lambda: pages.wanted(LAYOUT, "first_1000")),
