"""Check that a downloaded folder is unchanged: every file by its size and SHA-256.

Gigabytes are hashed only once. The hashes are stored next to the folder, with each file's size and modification time.
No job reads a file again while both are the same.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import check_regular, file_sha256, read_json_object, read_object, write_json
from justrl.models.folder import is_loaded, read_files


def check_download(folder: str | Path, *, required: bool = False) -> None:
    """Raise UserError unless the files of a folder are those that its source.json records.

    A folder without the record passes unless `required`. The error names the first file that is missing, has changed
    or, in a model's folder, was not downloaded; or the record, if it is unreadable.
    """
    folder = Path(folder)
    record = folder / "source.json"
    check_regular(record)
    if not record.is_file():
        if required:
            raise UserError(f"{folder} is missing, or no download: it has no source.json")
        return
    described = read_record(record)
    files = described["files"]
    if described.get("kind") == "model":
        there = {path.relative_to(folder).as_posix() for path in read_files(folder) if is_loaded(path.name)}
        if added := sorted(there - files.keys()):
            raise UserError(
                f"{folder / added[0]} was not downloaded into {folder}: remove it, or delete source.json "
                "to treat the folder as your own"
            )
    memory = folder.with_name(f".{folder.name}.checked.json")
    known = read_json_object(memory)
    seen: dict[str, Any] = {}
    for name, expected in sorted(files.items()):
        path = folder / name
        check_regular(path)
        if not path.is_file():
            raise UserError(f"{folder} lacks the downloaded file {name}: delete the folder and download it again")
        status = path.stat()
        before = known.get(name)
        if isinstance(before, list) and before[:2] == [status.st_size, status.st_mtime_ns]:
            seen[name] = before
        else:
            seen[name] = [status.st_size, status.st_mtime_ns, file_sha256(path)]
        if seen[name][2:] != [expected]:
            raise UserError(
                f"{path} is not the file that was downloaded (SHA-256 {seen[name][2]!s:.12}..., source.json has "
                f"{expected:.12}...): delete the folder and download it again"
            )
    if seen != known and os.access(memory.parent, os.W_OK):
        with suppress(OSError):
            write_json(memory, seen)


def revision_of(folder: str | Path) -> str | None:
    """The commit of a downloaded folder; None if it is not recorded."""
    record = Path(folder) / "source.json"
    return read_record(record).get("revision") if record.is_file() else None


def read_record(path: Path) -> dict[str, Any]:
    """Read a source.json: the origin of a download, and `files`, the SHA-256 of each file by name.

    Raises UserError for an invalid record: one without files, or with a file outside its folder.
    """
    record = read_object(path)
    files = record.get("files")
    if not isinstance(files, dict) or not files or not all(isinstance(value, str) for value in files.values()):
        raise UserError(
            f"{path} is not a download record (`files` is missing): delete its folder and download it again"
        )
    if outside := [name for name in files if name.startswith("/") or {"", ".", ".."} & set(name.split("/"))]:
        raise UserError(f"{path} names {outside[0]!r:.80}, which is not in its folder: download it again")
    return record
