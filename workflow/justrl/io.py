"""Atomic files and folders, JSON, SHA-256 sums, hard links and flushing to disk."""

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

# Errors of flock on a file system without locks, such as Lustre mounted without `-o flock`.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# Nobody holds `exclusive` for this long: an older folder was left by a killed process.
LEFT_SECONDS = 60.0

# Folder names that people use for models and data; none of them is an owner on the hub.
_FOLDERS = {
    "checkpoint", "checkpoints", "ckpt", "ckpts", "data", "dataset", "datasets", "exports", "home", "mnt", "model",
    "models", "output", "outputs", "results", "runs", "saved_models", "scratch", "tmp", "weights", "work",
}  # fmt: skip

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def is_hub_id(name: str | Path) -> bool:
    """Return whether a name that is not a folder here can be a hub id: owner/name, and `owner` is not a folder either.

    Other names are missing paths, which are not looked up on the hub.
    """
    text = str(name)
    owner = text.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text)) and owner not in _FOLDERS and not Path(owner).is_dir()


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a file for writing; it appears at `path` only if the block succeeds.

    The bytes are flushed to disk before the rename, so a crash leaves either the old file or the new one, never a part.
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
    """Hold a short lock on the file `path` against all other processes and users; `path` is used for nothing else.

    On a file system without locks, the lock is a folder `path`.held, which only one process can create.
    """
    held, alone = path.with_name(f"{path.name}.held"), False
    check_regular(path)
    # Does not follow a link that somebody placed here, and does not truncate a file.
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
    """Return the process's umask without changing it; `os.umask` would affect files that another thread creates."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(re.search(r"^Umask:\s*([0-7]+)", status, re.MULTILINE)[1], 8)  # type: ignore[index]
    except (OSError, TypeError):
        # Linux before 4.7, or another system: derive it from the mode of a new file.
        with tempfile.TemporaryDirectory() as folder:
            probe = os.open(Path(folder) / "probe", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o777)
            try:
                return 0o777 & ~stat.S_IMODE(os.fstat(probe).st_mode)
            finally:
                os.close(probe)


def follow_umask(*files: Path) -> None:
    """Make files as readable as the user's umask allows; mkstemp, and therefore safetensors, makes them private."""
    umask = current_umask()
    for file in files:
        mode = file.lstat()
        # The mode of a hard link is also that of a file elsewhere.
        if stat.S_ISREG(mode.st_mode) and mode.st_nlink == 1:
            file.chmod((stat.S_IMODE(mode.st_mode) | 0o666) & ~umask)


@contextmanager
def atomic_folder(target: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder next to `target`, which is renamed to `target` only if the block succeeds.

    The old contents of `target` are removed then; leftovers of a killed process are removed at the start. `sync`
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
    """Rename a finished folder to `target`; an existing `target` is moved away first and then removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush every file in a folder, and the folder itself, to disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if that is not possible; symbolic links are resolved first."""
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
    """Copy a folder by hard links, or byte by byte where the file system does not support them."""
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
        else:
            link_file(path, target / path.relative_to(source))


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means a full disk, an exhausted quota or a file over its size limit."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # torch and safetensors report a failed write only in their messages.
    text = str(error)
    return any(words in text for words in ("No space left", "quota exceeded", "File too large", "unexpected pos"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; raises ValueError for NaN and infinity, which JSON lacks."""
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def irregular(path: str | Path) -> str | None:
    """Describe what is at a path if it is not a regular file; None for a regular file or a missing one."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return None
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return None if stat.S_ISREG(mode) else next((name for is_it, name in kinds if is_it(mode)), "a device")


def check_regular(path: str | Path) -> None:
    """Raise UserError if a path is a named pipe, a socket or a device, because reading it may never end.

    Folders pass: opening one fails with a clear message.
    """
    if (kind := irregular(path)) and not Path(path).is_dir():
        raise UserError(f"{path} is {kind} and no regular file: put the file itself in its place, or take it away")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raises UserError, which names the file, if it is not JSON."""
    check_regular(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def json_object(text: str | bytes, source: str | Path) -> dict[str, Any]:
    """Parse a JSON object from text or bytes; raises UserError, which begins with `source`, for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{source} must be a JSON object, got {value!s:.80}")
    return value


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file; raises UserError, which names the file, for anything else."""
    check_regular(path)
    return json_object(Path(path).read_bytes(), path)


def json_argument(text: str, option: str) -> dict[str, Any]:
    """Read the JSON object given by an option: a file name, or JSON text if it begins with a brace."""
    if text.lstrip().startswith("{"):
        return json_object(text, option)
    try:
        return json_object(Path(text).read_text(encoding="utf-8"), text)
    except OSError as error:
        raise UserError(f"{option}: {text} cannot be read ({error.strerror}): give a JSON file or JSON") from None


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Write one JSON object per line, atomically."""
    with atomic_write(path) as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> list[dict]:
    """Read a file with one JSON object per line, skipping blank lines; raises UserError, naming an invalid line."""
    check_regular(path)
    lines = Path(path).read_bytes().split(b"\n")
    return [json_object(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object that another process may be writing: {} if the file is missing, unreadable or incomplete."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_whole_lines(path: str | Path) -> list[dict]:
    """Read the complete objects of a JSONL file, skipping lines that a killed writer left incomplete."""
    check_regular(path)
    return whole_lines(Path(path).read_text(encoding="utf-8", errors="replace"))


def whole_lines(text: str) -> list[dict]:
    """Return the complete objects in JSONL text."""
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
    """Write a header and one line per row, atomically.

    Text that a spreadsheet would read as a formula is prefixed with an apostrophe, so that it stays text.
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
    """Return the hexadecimal SHA-256 of a file's bytes; raises UserError if it is not a regular file."""
    check_regular(path)
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weights_sha256(folder: str | Path) -> str:
    """Return one SHA-256 for all weight files of a model folder."""
    files = sorted(path.resolve() for path in Path(folder).glob("*.safetensors"))
    return _sums_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=8)
def _sums_sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of the files' hashes; sizes and times are part of the cache key, to detect changes."""
    return hashlib.sha256("".join(file_sha256(name) for name, _, _ in files).encode()).hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, which does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
