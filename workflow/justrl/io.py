"""Files and folders that are whole or absent, JSON, SHA-256 sums, hard links and flushing to disk."""

import csv
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from justrl.errors import UserError

# What flock says on a file system without locks, such as Lustre mounted without `-o flock`.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# Nobody holds `exclusive` for so long: a folder that is older was left by a process that was killed.
LEFT_SECONDS = 60.0

# Folders that people keep models and data in, none of which is an owner on the hub.
_FOLDERS = {
    "checkpoint",
    "checkpoints",
    "ckpt",
    "ckpts",
    "data",
    "dataset",
    "datasets",
    "exports",
    "home",
    "mnt",
    "model",
}
_FOLDERS |= {"models", "output", "outputs", "results", "runs", "saved_models", "scratch", "tmp", "weights", "work"}

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def is_hub_id(name: str | Path) -> bool:
    """Whether a name that is no folder here can be a hub id: owner/name, where the first part is no folder here either.

    What is meant as a path is missing then, and the hub is not asked for it.
    """
    text = str(name)
    owner = text.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text)) and owner not in _FOLDERS and not Path(owner).is_dir()


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a file for writing that appears at `path` only if the block succeeds.

    The bytes are flushed to disk before the rename, so a crash leaves the old file or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        encoding = None if "b" in mode else "utf-8"
        with os.fdopen(descriptor, mode, encoding=encoding) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        follow_umask(Path(name))
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Be the only one, of all processes of all users, in a block that takes moments; `path` is a file for nothing else.

    Where the file system has no locks, a folder `path`.held is made, which succeeds for one process only.
    """
    held, alone = path.with_name(f"{path.name}.held"), False
    check_regular(path)
    # Neither a link that somebody laid here is followed, nor a file emptied.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _make_alone(held)
            alone = True
        yield
    finally:
        os.close(descriptor)
        if alone:
            with suppress(FileNotFoundError):
                held.rmdir()


def _make_alone(folder: Path) -> None:
    while True:
        try:
            return folder.mkdir()
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > LEFT_SECONDS:
                    folder.rmdir()
            time.sleep(0.05)


def current_umask() -> int:
    """The process's umask, without changing it: `os.umask` would open what another thread makes at that moment."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(re.search(r"^Umask:\s*([0-7]+)", status, re.MULTILINE)[1], 8)  # type: ignore[index]
    except (OSError, TypeError):
        # Linux before 4.7, or another system: the mode of a new file shows it.
        with tempfile.TemporaryDirectory() as folder:
            probe = os.open(Path(folder) / "probe", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o777)
            try:
                return 0o777 & ~stat.S_IMODE(os.fstat(probe).st_mode)
            finally:
                os.close(probe)


def follow_umask(*files: Path) -> None:
    """Make files as readable as the user's umask allows: mkstemp, and with it safetensors, makes them private."""
    umask = current_umask()
    for file in files:
        mode = file.lstat()
        # A hard link's mode is that of a file elsewhere, too.
        if stat.S_ISREG(mode.st_mode) and mode.st_nlink == 1:
            file.chmod((stat.S_IMODE(mode.st_mode) | 0o666) & ~umask)


@contextmanager
def atomic_folder(target: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `target` that takes its place only if the block succeeds.

    What stood at `target` is removed then; what a killed process left half written is removed at the start. `sync`
    flushes every file to disk before the rename.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        follow_umask(*temporary.rglob("*"))
        if sync:
            sync_folder(temporary)
        replace_folder(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in its place, moving aside whatever was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush every file in a folder, and the folder itself, to the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where that cannot be done; of a symbolic link, what it points to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by bytes where the file system has none."""
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
        else:
            link_file(path, target / path.relative_to(source))


def is_disk_full(error: BaseException) -> bool:
    """Say whether an error means a full disk, an exhausted quota or a file over its size limit."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # torch and safetensors report a failed write in words only.
    text = str(error)
    return any(words in text for words in ("No space left", "quota exceeded", "File too large", "unexpected pos"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; NaN and infinity are refused, as JSON has neither."""
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def irregular(path: str | Path) -> str | None:
    """What is at a path if it is no regular file, in words; None if it is one, or nothing is there."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return None
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return None if stat.S_ISREG(mode) else next((name for is_it, name in kinds if is_it(mode)), "a device")


def check_regular(path: str | Path) -> None:
    """Raise UserError if a path is a named pipe, a socket or a device, of which reading may never end.

    A folder cannot be opened, which says itself what it is.
    """
    if (kind := irregular(path)) and not Path(path).is_dir():
        raise UserError(f"{path} is {kind} and no regular file: put the file itself in its place, or take it away")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a UserError names one that holds anything else."""
    check_regular(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def json_object(text: str | bytes, source: str | Path) -> dict[str, Any]:
    """A JSON object from text or a file's bytes; a UserError, which begins with `source`, if it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{source} must be a JSON object, got {value!s:.80}")
    return value


def read_object(path: str | Path) -> dict[str, Any]:
    """Read the JSON object of a file; a UserError names one that holds anything else."""
    check_regular(path)
    return json_object(Path(path).read_bytes(), path)


def json_argument(text: str, option: str) -> dict[str, Any]:
    """The JSON object that an option names: of a file, or the text itself where it begins with a brace."""
    if text.lstrip().startswith("{"):
        return json_object(text, option)
    try:
        return json_object(Path(text).read_text(encoding="utf-8"), text)
    except OSError as error:
        raise UserError(f"{option}: {text} cannot be read ({error.strerror}): give a JSON file or JSON") from None


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_write(path) as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> list[dict]:
    """Read a file of one JSON object a line; blank lines are skipped. A UserError names a line of anything else."""
    check_regular(path)
    lines = Path(path).read_bytes().split(b"\n")
    return [json_object(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object that another process may be writing: {} if the file is absent, unreadable or cut short."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_whole_lines(path: str | Path) -> list[dict]:
    """Read those lines of a JSONL file that hold a whole object, skipping what a killed writer left cut short."""
    check_regular(path)
    return whole_lines(Path(path).read_text(encoding="utf-8", errors="replace"))


def whole_lines(text: str) -> list[dict]:
    """Those lines of JSONL text that hold a whole object."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def write_csv(path: str | Path, names: Iterable[str], rows: Iterable[dict]) -> None:
    """Write a header and one line for each row, atomically.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, which makes it text there.
    """
    with atomic_write(path) as handle:
        writer = csv.DictWriter(handle, list(names), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            formulas = {k: f"'{v}" for k, v in row.items() if isinstance(v, str) and v.startswith(FORMULA)}
            writer.writerow({**row, **formulas})


def write_parquet(table: Any, path: str | Path, **options: Any) -> None:
    """Write an Arrow table as Parquet, atomically; `options` are those of `pyarrow.parquet.write_table`."""
    from pyarrow import parquet

    with atomic_write(path, "wb") as handle:
        parquet.write_table(table, handle, **options)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; a UserError if it is no regular file."""
    check_regular(path)
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weights_sha256(folder: str | Path) -> str:
    """Return one SHA-256 for all weight files of a model folder."""
    files = sorted(path.resolve() for path in Path(folder).glob("*.safetensors"))
    return _sums_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=8)
def _sums_sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash the hashes of files; sizes and times are there to notice a change."""
    return hashlib.sha256("".join(file_sha256(name) for name, _, _ in files).encode()).hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON: the same for the same values in any order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
