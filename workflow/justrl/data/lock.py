"""The lock file of downloads: revision and SHA-256 sums of every source.

It is committed. If a source's revision is a branch, its first download resolves it to a commit. Later downloads request
that commit, and every file must have the recorded SHA-256.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import exclusive, read_json, write_json

_HEADER = "Written by `justrl data download`; commit it. Delete an entry to download that source again."


def source_key(kind: str, hub_id: str, subset: str | None = None) -> str:
    """Return the key of a source in the lock file: kind, hub id and, if files differ by it, subset."""
    return f"{kind}:{hub_id}" + (f"#{subset}" if subset else "")


def read_lock(path: str | Path | None) -> dict[str, dict[str, Any]]:
    """Return the entries {hub_id, revision, files: {path: sha256}} by source key; empty if the file doesn't exist."""
    if path is None or not Path(path).exists():
        return {}
    try:
        sources = read_json(path)["sources"]
        for key, entry in sources.items():
            if not isinstance(entry["revision"], str) or not isinstance(entry["files"], dict):
                raise ValueError(f"{key} has no revision, or no files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a lock file ({error}): restore it from git, or delete it to create a new one"
        ) from error
    return sources


def locked_revision(entry: Mapping[str, Any] | None, revision: str, key: str, path: str | Path | None) -> str:
    """Return the revision to request: the locked commit if there is one, else the given revision.

    Raises UserError if the given commit differs from the locked one, since one of the two is out of date.
    """
    if entry is None:
        return revision
    if is_commit(revision) and revision != entry["revision"]:
        raise UserError(
            f"{key}: the configuration asks for revision {revision}, but {path} has {entry['revision']}: "
            f"change the configuration, or delete the entry to download the source again"
        )
    return entry["revision"]


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit hash, whose content can never change."""
    return revision is not None and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision)


def check_files(entry: Mapping[str, Any], files: Mapping[str, str], key: str, path: str | Path, where: str) -> None:
    """Compare the SHA-256 of files with the locked ones. Raises UserError with both hashes for the first difference."""
    for name, expected in sorted(entry["files"].items()):
        found = files.get(name)
        if found is None:
            if Path(name).name.startswith(("README", "LICENSE")):
                continue
            raise UserError(f"{key}: {name} is in {path} but missing from {where}")
        if found != expected:
            raise UserError(
                f"{key}: {name} from {where} has SHA-256 {found}, but {path} has {expected}: "
                f"the source has changed; get the locked bytes, or delete the entry to accept the new ones"
            )
    extra = sorted(set(files) - set(entry["files"]))
    if extra:
        raise UserError(
            f"{key}: {where} also has {', '.join(extra[:4])}, which are not in {path}: remove the extra files"
        )


def add_entry(path: str | Path, key: str, entry: Mapping[str, Any]) -> None:
    """Add or replace one entry; safe if other downloads write the same lock file concurrently."""
    path = Path(path)
    with exclusive(path.with_name(f".{path.name}.guard")):
        sources = {**read_lock(path), key: dict(entry)}
        write_json(path, {"about": _HEADER, "sources": dict(sorted(sources.items()))})
