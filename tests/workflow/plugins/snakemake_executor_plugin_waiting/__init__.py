"""An executor whose jobs start after a command has run, $WHILE_WAITING: what happens while a queue keeps them waiting.

As on a cluster, a job is a Snakemake of its own, started from the command line that the executor is given.
"""

import os
import subprocess

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    """Runs each job as a process."""

    def run_job(self, job):
        """Let something happen to the files, then start the job."""
        subprocess.run(os.environ["WHILE_WAITING"], shell=True, check=True)
        process = subprocess.Popen(self.format_job_exec(job), shell=True)
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process}))

    async def check_active_jobs(self, active_jobs):
        """Report what has ended; yield what has not."""
        for info in active_jobs:
            status = info.aux["process"].poll()
            if status is None:
                yield info
            elif status == 0:
                self.report_job_success(info)
            else:
                self.report_job_error(info)

    def cancel_jobs(self, active_jobs):
        """End the processes."""
        for info in active_jobs:
            info.aux["process"].terminate()
