"""Locate a data set or model in a local mirror, the Hugging Face cache or the hub, at a known revision.

The order is the mirror, then the hub, then (without network or offline) the cache. All files found are hashed and
compared with the lock file, whichever of the three they came from.

The lock file has the revision and the SHA-256 sums of every source and is committed. If a source's revision is a
branch, its first download resolves it to a commit. Later downloads request that commit, and every file must have the
recorded SHA-256.
"""

import glob
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from justrl.data.tables import is_data_file, list_files, refuse_unreadable
from justrl.errors import UserError
from justrl.io import (
    atomic_folder,
    check_regular,
    copy_file,
    exclusive,
    file_sha256,
    link_file,
    read_json,
    read_object,
    write_json,
)
from justrl.models.folder import (
    INDEX,
    check_download,
    check_files,
    check_model_folder,
    check_numbers,
    indexed_files,
    read_record,
)

Kind = Literal["dataset", "model"]
_HEADER = "Written by `justrl data download`; commit it. Delete an entry to download that source again."


@dataclass(frozen=True)
class Hub:
    """How to reach sources: a mirror folder (DIR/<hub_id>/...) or None, offline mode, network timeout in seconds."""

    mirror: Path | None = None
    offline: bool = False
    timeout: float = 5.0


DIRECT = Hub()
"""The hub itself, over the network."""


@dataclass(frozen=True)
class Source:
    """A source that was found: `files` maps relative names in `folder` to SHA-256.

    `requested` is the revision asked for, `revision` the resolved commit. It is None if unknown, as in a mirror of bare
    files that is not in the lock file.
    """

    kind: str
    hub_id: str
    requested: str | None
    revision: str | None
    origin: Literal["hub", "cache", "mirror", "local"]
    folder: Path
    files: dict[str, str] = field(repr=False)
    subset: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the content of source.json and the data card's entry: all fields except the folder."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def wanted_files(kind: Kind, names: Iterable[str], subset: str | None = None) -> list[str]:
    """Select the useful files of a repository, sorted by name.

    For a model: top-level safetensors, JSON and tokenizer files; never pickled weights (`*.bin`, `*.pt`), never code.
    For a data set: its card and data files; only those of one subset, if paths name it.
    """
    names = sorted(names)
    if kind == "model":
        kinds, whole = (".safetensors", ".json", ".jinja"), ("merges.txt", "vocab.txt", "tokenizer.model")
        top = [name for name in names if "/" not in name and not name.startswith(".") and name != "source.json"]
        return [
            name
            for name in top
            if name in whole or name.startswith("LICENSE") or (name.endswith(kinds) and ".bin." not in name)
        ]
    data = [name for name in names if is_data_file(name)]
    # Skip CSV if the same rows exist in another format.
    data = [name for name in data if not name.lower().endswith(".csv")] or data
    if subset is not None:
        data = [name for name in data if subset in name.replace(".", "/").split("/")] or data
    return [name for name in names if name == "README.md" or name in set(data)]


def locate(
    kind: Kind,
    hub_id: str,
    revision: str = "main",
    *,
    subset: str | None = None,
    lock: str | Path | None = None,
    hub: Hub = DIRECT,
) -> Source:
    """Find a data set or model. Returns it with its resolved revision and the SHA-256 of each file.

    `lock` is the lock file: its revision is requested, its hashes must match, and a first download from the hub is
    added to it. Raises UserError with one sentence on what is missing and what would help.
    """
    if any(part in ("", ".", "..") for part in hub_id.split("/")):
        raise UserError(f"{hub_id!r} is neither a hub id (owner/name) nor an existing path")
    key = source_key(kind, hub_id, subset)
    entry = read_lock(lock).get(key)
    asked, revision = revision, locked_revision(entry, revision, key, lock)
    found = _from_mirror(kind, hub_id, subset, revision, hub) or _from_hub(kind, hub_id, subset, revision, hub)
    _check_complete(found)
    if kind == "model":
        check_files(found.folder, hub.mirror if found.origin == "mirror" else None)
        check_numbers(read_object(found.folder / "config.json"), found.folder / "config.json")
    if entry is not None and lock is not None:
        check_locked(entry, found.files, key, lock, f"{found.origin} {found.folder}")
        # The bytes equal the locked ones, so this is the locked revision wherever they came from.
        return replace(found, requested=asked, revision=entry["revision"])
    if lock is not None and found.revision is not None and found.origin != "mirror":
        add_entry(lock, key, {"hub_id": hub_id, "revision": found.revision, "files": found.files})
    return found


def local_source(path: str | Path, kind: Kind = "dataset") -> Source:
    """Describe a local file or folder of data, or a model folder.

    A folder made by `justrl data download` keeps its recorded source and must still hold the downloaded files. Raises
    UserError: nothing exists there, or it lacks a required file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is not there: name a file or folder from where you start, or an absolute path")
    if not path.is_dir():
        check_regular(path)
    elif kind == "model":
        check_files(path)
    record = path / "source.json"
    check_regular(record)
    if record.is_file():
        check_download(path)
        known = {field.name for field in fields(Source)}
        try:
            kept = Source(**{name: value for name, value in read_record(record).items() if name in known}, folder=path)
        except TypeError as error:
            raise UserError(
                f"{record} is not a download record ({error}): delete its folder and download it again"
            ) from None
        _check_complete(kept)
        if kind == "model":
            check_model_folder(path)
        return kept
    folder, names = (path.parent, [path.name]) if path.is_file() else (path, wanted_files(kind, list_files(path)))
    found = Source(kind, str(path), None, None, "local", folder, dict.fromkeys(names, ""))
    _check_complete(found)
    if kind == "model":
        check_model_folder(folder)
    return replace(found, files=_hashes(folder, names))


def changed_since(path: str | Path, taken: str | Path) -> str | None:
    """Return the first file of a local source that differs from its copy in the folder `taken`; None if there is none.

    Copies keep size and time, so only files that differ in one of them are read. A deleted file doesn't count as
    changed.
    """
    path, taken = Path(path), Path(taken)
    for copy in sorted(taken.rglob("*")):
        original = path if path.is_file() else path / copy.relative_to(taken)
        if copy.name == "source.json" or not (copy.is_file() and original.is_file()):
            continue
        then, now = copy.stat(), original.stat()
        same = then.st_size == now.st_size and then.st_mtime_ns == now.st_mtime_ns
        if not same and file_sha256(copy) != file_sha256(original) and (path.is_dir() or copy.name == path.name):
            return str(original)
    return None


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    from tqdm import tqdm

    names = list(names)
    total = sum((folder / name).stat().st_size for name in names)
    with tqdm(total=total, unit="B", unit_scale=True, desc="sha256", leave=False, disable=total < 2**28) as bar:
        hashes = {}
        for name in names:
            try:
                hashes[name] = file_sha256(folder / name)
            except PermissionError as error:
                refuse_unreadable(error)
            bar.update((folder / name).stat().st_size)
    return hashes


def _from_mirror(kind: Kind, hub_id: str, subset: str | None, revision: str, hub: Hub) -> Source | None:
    if hub.mirror is None:
        return None
    folder = Path(hub.mirror) / hub_id
    try:
        if not folder.is_dir():
            return None
    except PermissionError as error:
        refuse_unreadable(error)
    if kind == "model":
        check_files(folder, hub.mirror)
    names = wanted_files(kind, list_files(folder), subset)
    for path in (folder / name for name in names):
        if not path.resolve().is_relative_to(Path(hub.mirror).resolve()):
            raise UserError(f"{path} is a link out of the mirror, to {path.resolve()}: put a copy in its place")
    known: str | None = None
    if (folder / "source.json").is_file():
        known = read_object(folder / "source.json").get("revision")
        if is_commit(revision) and known is not None and known != revision:
            raise UserError(f"the mirror's {folder} is revision {known} of {hub_id}, but {revision} is asked for")
    return Source(kind, hub_id, revision, known, "mirror", folder, _hashes(folder, names), subset)


def _from_hub(kind: Kind, hub_id: str, subset: str | None, revision: str, hub: Hub) -> Source:
    if hub.offline:
        return _from_cache(kind, hub_id, subset, revision, hub, "offline mode is on")
    import httpx
    import huggingface_hub as hf
    from huggingface_hub import errors

    try:
        ask = hf.HfApi().model_info if kind == "model" else hf.HfApi().dataset_info
        info = ask(hub_id, revision=revision, timeout=hub.timeout, files_metadata=True)
    except errors.GatedRepoError as error:
        raise UserError(f"{kind} {hub_id} is gated: ask for access on its page, then set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"the hub has no {kind} {hub_id}, or it is private: check the id, or set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{kind} {hub_id} has no revision {revision!r} on the hub") from error
    except errors.HFValidationError as error:
        raise UserError(f"{hub_id!r} is neither a hub id nor an existing path: {error}".splitlines()[0]) from error
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = f"the hub cannot be reached ({type(error).__name__})"
        return _from_cache(kind, hub_id, subset, revision, hub, reason)
    names = wanted_files(kind, (sibling.rfilename for sibling in info.siblings or []), subset)
    try:
        folder = hf.snapshot_download(
            hub_id, repo_type=kind, revision=info.sha, allow_patterns=[glob.escape(name) for name in names]
        )
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"downloading {kind} {hub_id} at {info.sha} was interrupted: {reason}; run the command again to continue"
        ) from error
    hashes = _hashes(Path(folder), names)
    for sibling in info.siblings or []:
        if sibling.rfilename in hashes:
            _check_against_hub(Path(folder) / sibling.rfilename, hashes[sibling.rfilename], sibling)
    return Source(kind, hub_id, revision, info.sha, "hub", Path(folder), hashes, subset)


def _check_against_hub(path: Path, sha256: str, sibling: Any) -> None:
    """Raise UserError if a downloaded file doesn't have the hash that the hub reports.

    The hub gives the SHA-256 of a large file, and git's blob hash of a small one.
    """
    if sibling.lfs is not None:
        expected, found = sibling.lfs.sha256, sha256
    elif sibling.blob_id is not None:
        content = path.read_bytes()
        expected, found = sibling.blob_id, hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
    else:
        return
    if found != expected:
        raise UserError(
            f"{path} is not what the hub holds (its hash is {found[:12]}..., the hub says "
            f"{expected[:12]}...): the download is damaged; delete {path.resolve()} and run the command again"
        )


def _from_cache(kind: Kind, hub_id: str, subset: str | None, revision: str, hub: Hub, reason: str) -> Source:
    import huggingface_hub as hf
    from huggingface_hub import constants, errors

    patterns = None
    with suppress(errors.CachedRepoTreeNotFoundError, errors.HFValidationError, ValueError):
        # If the cache knows the repository's file list, all wanted files must be present; others may be missing.
        tree = hf.get_cached_repo_tree(hub_id, repo_type=kind, revision=revision)
        patterns = [glob.escape(name) for name in wanted_files(kind, (file.path for file in tree), subset)]
    try:
        folder = Path(
            hf.snapshot_download(
                hub_id, repo_type=kind, revision=revision, local_files_only=True, allow_patterns=patterns
            )
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError) as error:
        place = f"{hub.mirror}/{hub_id}" if hub.mirror else f"DIR/{hub_id}, with hub.mirror set to DIR"
        where = f", nor is it in the mirror {hub.mirror}" if hub.mirror else ""
        raise UserError(
            f"{kind} {hub_id} at revision {revision} is not here and {reason}{where}: put its files in {place}, "
            f"or download it where there is network and share that cache (HF_HOME; here {constants.HF_HUB_CACHE})"
        ) from error
    names = wanted_files(kind, list_files(folder), subset)
    known = folder.name if is_commit(folder.name) else None
    return Source(kind, hub_id, revision, known, "cache", folder, _hashes(folder, names), subset)


def _check_complete(source: Source) -> None:
    """Raise UserError if a source lacks required files, so that no later step fails on it."""
    where = f"{source.origin} {source.folder}"
    if source.kind == "dataset":
        if not any(map(is_data_file, source.files)):
            raise UserError(f"dataset {source.hub_id} has no Parquet, JSON or CSV file in the {where}")
        return
    weights = [name for name in source.files if name.endswith(".safetensors")]
    if not weights:
        pickled = sorted(path.name for path in source.folder.glob("*.bin"))
        note = f" (it has {', '.join(pickled[:2])}, pickled weights, which are never loaded)" if pickled else ""
        raise UserError(f"model {source.hub_id} has no safetensors weights in the {where}{note}")
    missing = [name for name in ("config.json", "tokenizer_config.json") if name not in source.files]
    if INDEX in source.files:
        missing += sorted(indexed_files(source.folder) - set(weights))
    if missing:
        raise UserError(f"model {source.hub_id} in the {where} lacks {', '.join(missing)}")


def download(source: Source, output: str | Path) -> Path:
    """Put the files of a located source, and its record, into the folder `output`, atomically.

    A user's local files are copied, so that later edits change nothing in `output`. All others are hard links. An
    existing folder is replaced if it is empty or holds an earlier download; any other one is refused.
    """
    output = Path(output)
    if output.is_dir() and any(output.iterdir()) and not (output / "source.json").is_file():
        raise UserError(f"{output} contains files that were not downloaded: choose another folder or empty it")
    with atomic_folder(output) as folder:
        for name in source.files:
            (copy_file if source.origin == "local" else link_file)(source.folder / name, folder / name)
        write_json(folder / "source.json", source.record())
    return output


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


def check_locked(entry: Mapping[str, Any], files: Mapping[str, str], key: str, path: str | Path, where: str) -> None:
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
