"""Read the experiment, compare it with earlier starts, save it for the jobs, and print the cost before the first job.

A start reads config.yaml, the profile's overlay, `--configfile` and `--config`. Its jobs, which may wait for days, read
the snapshot that the start saved with the results, <results>/experiments/, and no file that may have been edited since.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from snakemake.cli import get_profile_dir
from snakemake.logging import LogEvent, logger
from snakemake.pathvars import Pathvars
from snakemake.settings.enums import Quietness

from justrl.config import Experiment, outputs, paper, settings
from justrl.config import files as config_files
from justrl.config.layout import Layout
from justrl.config.outputs import any_of
from justrl.errors import UserError
from justrl.plan import plan_tables, planning
from justrl.report import pages
from justrl.status import jobs as job_files
from justrl.training import trackers
from justrl.workflow import config_snapshots, paper_check, run_state, stale, start_checks

# Key for the snapshot on a job's command line; each module of a workflow has its own name and configuration.
FROZEN = "frozen_experiment" if HERE == workflow.basedir else f"frozen_experiment_{__name__}"
ON_COMMAND_LINE = workflow.config_settings.overwrite_config
OPTIONS = ("accept_changes", FROZEN)


def profile_overlays():
    """The `configfile` of the profile, which Snakemake drops if `--configfile` is given; overlays must extend it."""
    words = [part for word in sys.argv for part in ([word] if word[:10] != "--profile=" else word.split("=", 1))]
    named = dict(zip(words, words[1:])).get("--profile", os.environ.get("SNAKEMAKE_PROFILE"))
    found = get_profile_dir(named) if named else None
    overlays = config_files.read_yaml(found[1]).get("configfile", []) if found else []
    return [overlays] if isinstance(overlays, str) else overlays


def read_configuration():
    """The configuration of this start. Overlays are removed from the jobs' command line: jobs read the snapshot."""
    if HERE != workflow.basedir:
        return config_files.complete({key: value for key, value in config.items() if key not in OPTIONS})
    command = workflow.config_settings
    given = [os.path.relpath(path) for path in command.configfiles]
    overlays = dict.fromkeys([*map(os.path.normpath, profile_overlays()), *given])
    command.configfiles = []
    read = config_files.merge(config_files.read(list(overlays)), command.config)
    return {key: value for key, value in read.items() if key not in OPTIONS}


try:
    if FROZEN in ON_COMMAND_LINE:
        FILE = ON_COMMAND_LINE[FROZEN]
        config, ENDS = config_snapshots.read(FILE)
    else:
        config, ENDS = read_configuration(), None
    workflow.pathvars.update(Pathvars.from_config(config))
    outputs.check_folder(workflow.pathvars.get("results"), Path.cwd())
    RESULTS = Path(workflow.pathvars.get("results"))
    EXPERIMENT = Experiment.from_mapping(config).with_canaries()
    ENDS = run_state.segment_ends(EXPERIMENT, RESULTS) if ENDS is None else ENDS
    LAYOUT = Layout(EXPERIMENT, ends=ENDS, own_bases=run_state.own_bases(EXPERIMENT, RESULTS))
    ON_DISK = replace(LAYOUT, root=str(RESULTS))
    # Not an option or param of the rule: after a change, Snakemake would retrain, or not recognise its own queued jobs.
    os.environ[trackers.VARIABLE] = ",".join(EXPERIMENT.trackers)
    if workflow.is_main_process:
        outputs.check_paths(ON_DISK)
        paper_check.check_paper(EXPERIMENT, RESULTS)
        start_checks.check_unchanged(EXPERIMENT, RESULTS)
        start_checks.check_local_files(ON_DISK)
        if report_file := start_checks.report_of(sys.argv):
            start_checks.check_something_to_report(EXPERIMENT, RESULTS)
            # Variables for the start page (captions/workflow.rst).
            workflow.config["answers"] = list(start_checks.answer_pages(ON_DISK, report_file))
            workflow.config["stamp"] = paper.mark(LAYOUT.common_stamp)
        DOCUMENT = config_snapshots.document(config, LAYOUT)
        FILE = config_snapshots.file_of(DOCUMENT, RESULTS)
        for line in [
            *config_snapshots.changes(DOCUMENT, RESULTS),
            *LAYOUT.left_out(),
            *start_checks.local_data(ON_DISK),
        ]:
            logger.info(line)
except UserError as error:
    raise WorkflowError(str(error)) from None


def changes_accepted():
    """True if `--config accept_changes=true` was given; UserError if it is neither true nor false."""
    given = str(ON_COMMAND_LINE.get("accept_changes", False))
    if given.lower() not in ("true", "false"):
        raise UserError(f"--config accept_changes={given!r}: must be true or false")
    return given.lower() == "true"


def planned_jobs():
    """The input of start_checks for each planned job: its outputs, and whether it was forced or interrupted."""
    for job in workflow.dag.needrun_jobs():
        reason = workflow.dag.reason(job)
        wanted = reason.forced or bool(reason.incomplete_output)
        # Cut off Snakemake's long list of params; changes of the configuration were already printed.
        why = str(reason).partition(": Union of exclusive")[0]
        yield start_checks.Planned(tuple(map(str, job.output)), wanted, why)


def targets():
    """The requested targets as text: collecting rules by name, files relative to the results."""
    rules = {job.rule.name.removeprefix(f"{__name__}_") for job in workflow.dag.targetjobs if job.rule.norun}
    return sorted(rules) + sorted(os.path.relpath(str(file), RESULTS) for file in workflow.dag.targetfiles)


def check_targets():
    """Raise WorkflowError, with the nearest name, for a target that is not a rule, a file, or the output of a rule."""
    for target in workflow.dag_settings.targets or ():
        path = os.path.relpath(target) if os.path.isabs(target) else target
        made = workflow.is_rule(target) or any(rule.is_producer(path) for rule in workflow.rules)
        if made or os.path.exists(path):
            continue
        rules = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
        raise WorkflowError(start_checks.unknown_target(target, rules, ON_DISK))


def check_interpreter(trained_runs, outputs):
    """Raise UserError if jobs would find no `python` with the workflow's packages, or lack their own packages."""
    python = shutil.which("python")
    if workflow.deployment_settings.deployment_method:
        return
    if python and Path(python).parent == Path(sys.executable).parent:
        start_checks.check_installed(EXPERIMENT, trained_runs, outputs)
        return
    if not python or subprocess.run([python, "-c", "import pydantic, yaml"], capture_output=True).returncode:
        raise UserError(
            f"jobs run `python`, which is {python or 'not on PATH'} and lacks the workflow's packages: first activate the "
            f"environment of {sys.executable} with `. {Path(sys.executable).parent}/activate`"
        )


def tell_what_is_gone(planned):
    """Report missing files behind finished results."""
    for line in start_checks.behind_results(ON_DISK, planned):
        logger.info(line)


def used_files(dag):
    """All files that a start makes or uses."""
    return {str(path) for job in dag.jobs for path in job.output}


def to_make_again(dag):
    """The files in a plan that must be recomputed because of their content."""
    try:
        return stale.to_make_again(ON_DISK, used_files(dag), changes_accepted()) if dag is workflow.dag else set()
    except UserError as error:
        raise WorkflowError(str(error)) from None


def before_the_first_job():
    """Refuse a start that would destroy results; save its configuration unless it is a dry run; return its cost."""
    jobs = list(planned_jobs())
    try:
        accept = start_checks.start_command(sys.argv[1:], "accept_changes=true")
        start_checks.check_nothing_lost(jobs, ON_DISK, None if changes_accepted() else accept)
        outputs_planned = {path for job in jobs for path in job.outputs}
        tell_what_is_gone(outputs_planned)
        segments = run_state.planned_segments(outputs_planned, ON_DISK)
        gpus = workflow.global_resources.get("gpu")
        start_checks.check_gpus_granted(EXPERIMENT, gpus and gpus.value, bool(segments))
        start_checks.check_trained_runs(ON_DISK, {run for run, _ in segments}, outputs_planned)
        entries, used = config.get("benchmarks", {}), used_files(workflow.dag)
        stale.check_answers(ON_DISK, entries, used, outputs_planned, accept)
        if jobs and not (workflow.dryrun or workflow.touch):
            check_interpreter({run for run, _ in segments}, outputs_planned)
            if workflow.local_exec:
                start_checks.check_gpus_here(EXPERIMENT, bool(segments), outputs_planned)
            start_checks.keep_training_data(ON_DISK, outputs_planned)
            config_snapshots.write(DOCUMENT, FILE)
            config_snapshots.note_asked(targets(), FILE)
        for line in start_checks.marked(segments, ON_DISK):
            logger.warning(line)
        for line in LAYOUT.golden_left_out() if "golden" in targets() else ():
            logger.info(line)
        return plan_tables.announce(EXPERIMENT, segments, [job.outputs for job in jobs], ON_DISK)
    except UserError as error:
        raise WorkflowError(str(error)) from None


class AroundThePlan(logging.Handler):
    """Runs checks around Snakemake's plan, triggered by its log messages: dry runs and modules have no hook there."""

    told = False
    cost = ""

    def emit(self, record):
        said = record.getMessage()
        if said.startswith("Building DAG of jobs"):
            check_targets()
        elif getattr(record, "event", None) == LogEvent.RUN_INFO and not self.told:
            self.told = True
            self.cost = before_the_first_job()
            # In a dry run, print it at the very end, where it is read.
            if not workflow.dryrun or Quietness.PROGRESS in (workflow.output_settings.quiet or ()):
                self.tell_cost()
        elif said.startswith("This was a dry-run"):
            self.tell_cost()
        elif said.startswith("Nothing to be done") and not self.told:
            self.told = True
            before_the_first_job()

    def tell_cost(self):
        if self.cost:
            logger.info(self.cost)
        self.cost = ""


if workflow.is_main_process:
    workflow.config_settings.config_args = [*workflow.config_settings.config_args, f"{FROZEN}={FILE}"]
    logger.addHandler(AroundThePlan())
    ancient_inputs.MAKE_AGAIN.append(to_make_again)
