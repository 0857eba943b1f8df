"""Snakemake's messages on a terminal: jobs as short lines, our errors as one sentence, a dry run on one screen."""

import logging
import re
from pathlib import Path
from typing import Any

from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_justrl import LogHandler

SNAKEMAKES_OWN = "DefaultStreamHandler"
HERE = re.escape(str(Path(__file__).resolve().parents[1]))
# How Snakemake shows an exception that our rules or their input functions raise.
OUR_ERROR = re.compile(
    rf'WorkflowError in file "{HERE}/(?:Snakefile|rules/)[^"]*", line \d+:\n(?P<raised>.*?)(?:\n  File .*)?$'
    rf'|InputFunctionException in rule \w+ in file "{HERE}/rules/[^"]*", line \d+:\nError:\n  WorkflowError:\n'
    r"    (?P<asked>.*?)\nWildcards:.*",
    re.DOTALL,
)


def install(workflow: Any) -> bool:
    """Replace Snakemake's handler by ours, unless another output is requested; return whether it was replaced."""
    logger, settings = workflow.logger_manager.logger, workflow.logger_manager.settings
    own = next((handler for handler in logger.handlers if handler.name == SNAKEMAKES_OWN), None)
    other = settings.dryrun or settings.verbose or settings.printshellcmds or settings.debug_dag
    silent = {Quietness.ALL, Quietness.PROGRESS} & set(settings.quiet or ())
    if own and not settings.verbose:
        own.addFilter(one_sentence)
    if own and settings.dryrun and Quietness.RULES in (settings.quiet or ()) and workflow.is_main_process:
        own.addFilter(OneScreen())
    if own is None or other or silent or not workflow.is_main_process:
        return False
    # Created first, so that Snakemake's own handler reports a failure in it.
    handler = LogHandler(settings, None)
    handler.snakemakes, handler.is_remote = own, lambda: not workflow.local_exec
    logger.removeHandler(own)
    logger.addHandler(handler)
    return True


def one_sentence(record: logging.LogRecord) -> bool:
    """Reduce an error raised by our rules to its sentence, without the traceback."""
    if getattr(record, "event", None) == LogEvent.ERROR and (found := OUR_ERROR.match(record.getMessage())):
        record.msg, record.args = f"error: {found['raised'] or found['asked']}", ()
    return True


class OneScreen(logging.Filter):
    """Filter for a dry run that is quiet about rules: shows the table of jobs once, and no list of reasons by rule."""

    shown = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is shown."""
        again, self.shown = self.shown, self.shown or getattr(record, "event", None) == LogEvent.RUN_INFO
        return not (
            again and (getattr(record, "event", None) == LogEvent.RUN_INFO or "Reasons:" in record.getMessage())
        )
