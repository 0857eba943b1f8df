"""JustRL (arXiv 2512.16649) from dataset download to the comparison with the published numbers.

snakemake --profile mini                    the whole experiment, tiny, on a CPU
snakemake --profile slurm                   the paper's experiment on a cluster
snakemake results/aime_deepseek.json        one benchmark of one run
"""

import shlex
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27.1")

# Every job parses this file, so every job finds the package, whichever environment it runs in. Standard error goes to
# the terminal and to the rule's log; the copy outlives the signals that end a job, so that its last words are kept.
PACKAGE = f"{workflow.basedir}/workflow"
sys.path.insert(0, PACKAGE)
shell.prefix(
    f"export PYTHONPATH={shlex.quote(PACKAGE)}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; "
    "log_to() {{ trap '' HUP INT TERM; exec tee \"$1\" >&2; }}; "
)


configfile: "config.yaml"


pathvars:
    logs="<results>/logs",
    timings="<results>/timings",


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/analyse.smk"


refuse_changed_recipes()
if any(word.partition("=")[0] == "--report" for word in sys.argv):
    refuse_empty_report()


report: "workflow/captions/workflow.rst"


localrules:
    all,
    data,
    canary,


rule all:
    """Everything: trained runs, evaluations of base, checkpoints and last step, figures, tables, provenance."""
    default_target: True
    input:
        evaluation_results(),
        analysis_results(),


rule data:
    """Models, training data and benchmarks only: what a machine with network prepares for compute nodes without."""
    input:
        downloads(),


rule canary:
    """Two real steps with short responses and one small evaluation of each enabled run, through every rule."""
    input:
        canary_results(),
