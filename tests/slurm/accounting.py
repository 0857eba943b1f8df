"""Slurm's accounting for a cluster of the tests: a database without passwords, and slurmdbd on it."""

import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("mariadbd", "slurmdbd", "sacctmgr", "sacct")
TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")


def why_no_accounting() -> str | None:
    """Return the reason for which there can be no accounting on this machine, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (run tests/slurm/install.sh)" if missing else None


def database_command(folder: Path, port: int) -> list[str]:
    """The command that starts the database in a new folder, with the tables that Slurm's procedures need."""
    folder.mkdir()
    here = ("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}")
    tables = "create database mysql;\nuse mysql;\n" + TABLES.read_text()
    subprocess.run([*here, "--bootstrap"], input=tables, text=True, check=True, capture_output=True)
    options = ("--skip-grant-tables", f"--port={port}", "--bind-address=127.0.0.1")
    return [*here, *options, f"--socket={folder}/socket", f"--pid-file={folder}/pid"]


def slurmdbd_conf(state: Path, port: int, database_port: int) -> str:
    """What slurmdbd reads beside the slurm.conf that SLURM_CONF names."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={state}/munge/munge.socket",
        "DbdHost=localhost",
        f"DbdPort={port}",
        "SlurmUser=root",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={database_port}",
        "StorageUser=root",
        "StorageLoc=accounting",
        f"LogFile={state}/log/slurmdbd.log",
        f"PidFile={state}/slurmdbd.pid",
    ]
    return "\n".join(lines) + "\n"


def cluster_lines(state: Path, port: int) -> list[str]:
    """The lines of slurm.conf for a cluster that accounts for its jobs and holds them to limits."""
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port}",
        f"AccountingStoragePass={state}/munge/munge.socket",
        "AccountingStorageEnforce=associations,limits,qos",
    ]
