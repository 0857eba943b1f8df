"""The rules of RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) that a crate on disk must keep, and its files' hashes."""

import json
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from justrl.io import file_sha256

VERSION = "https://w3id.org/ro/crate/1.1"
# The terms of the 1.1 context that are used here; any other would mean nothing to a reader of JSON-LD.
TERMS = """
    @id @type about additionalProperty claimReviewed conformsTo contentSize datePublished description encodingFormat
    endTime hasPart instrument license mentions name object programmingLanguage result reviewBody sha256
    softwareRequirements softwareVersion startTime url value variableMeasured version
"""
TYPES = {"CreativeWork", "Dataset", "File", "CreateAction", "PropertyValue", "ClaimReview", "SoftwareApplication"}
TYPES |= {"SoftwareSourceCode"}


def read_crate(folder: Path) -> dict[str, dict]:
    """The entities of a folder's crate, by @id."""
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in crate["@graph"]}


def problems(folder: Path) -> list[str]:
    """What is wrong with the crate of a folder, one sentence each."""
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    graph, entities = crate["@graph"], read_crate(folder)
    found = [] if crate["@context"] == f"{VERSION}/context" else ["the context is another"]
    found += [] if len(entities) == len(graph) else ["an @id stands twice"]
    descriptor = entities.get("ro-crate-metadata.json", {})
    if descriptor.get("conformsTo") != {"@id": VERSION} or descriptor.get("about") != {"@id": "./"}:
        found.append("the metadata descriptor does not conform to 1.1, or is about something else")
    root = entities.get("./", {})
    found += [
        f"the root has no {key}" for key in ("name", "description", "datePublished", "license") if key not in root
    ]
    datetime.fromisoformat(root.get("datePublished", ""))
    for name, entity in entities.items():
        found += [f"{name}: {key} is no term of the context" for key in entity.keys() - set(TERMS.split())]
        found += [] if entity.get("@type") in TYPES else [f"{name}: @type {entity.get('@type')}"]
        references = [ref for value in entity.values() for ref in _list(value)]
        targets = [ref["@id"] for ref in references if isinstance(ref, dict)]
        found += [f"{name}: {target} is nowhere" for target in targets if target not in {*entities, VERSION}]
        if entity.get("@type") in ("File", "Dataset"):
            found += _data_problems(folder, name, entity)
    reached = _parts(entities, "./")
    data = {name for name, entity in entities.items() if entity["@type"] in ("File", "Dataset")}
    return found + [f"{name} is no part of the root" for name in sorted(data - reached)]


def _list(value) -> list:
    return value if isinstance(value, list) else [value]


def _parts(entities: dict[str, dict], name: str) -> set[str]:
    return {name}.union(*(_parts(entities, part["@id"]) for part in _list(entities.get(name, {}).get("hasPart", []))))


def _data_problems(folder: Path, name: str, entity: dict) -> list[str]:
    path = folder / unquote(name)
    if entity["@type"] == "Dataset":
        return [] if path.is_dir() and name.endswith("/") else [f"{name} is no folder"]
    if not path.is_file():
        return [f"{name} is not there"]
    if (entity["contentSize"], entity["sha256"]) != (str(path.stat().st_size), file_sha256(path)):
        return [f"{name} is another file"]
    return []
