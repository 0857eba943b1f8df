"""Download a data set, benchmark or model into a folder, with a record of what it is.

    python -m justrl.data.download model --hub-id deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --output models/deepseek

writes the files and `source.json`: kind, hub id, resolved revision, origin (hub, cache, mirror), SHA-256 of each file.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from justrl.data.sources import Hub, Source, locate, place_file
from justrl.errors import UserError
from justrl.io import write_json


def download(source: Source, output: str | Path) -> Path:
    """Place the files of a located source, and its record, in the folder `output`, which appears whole or not at all.

    A folder that is there already is replaced if it holds an earlier download or nothing; anything else is refused.
    """
    output = Path(output)
    if output.is_dir() and any(output.iterdir()) and not (output / "source.json").is_file():
        raise UserError(f"{output} holds files that are no download: choose another folder or empty it")
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for name in source.files:
            place_file(source.folder / name, staging / name)
        write_json(staging / "source.json", source.record())
        staging.chmod(0o755)
        if output.is_dir():
            shutil.rmtree(output)
        staging.replace(output)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return output


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where sources are looked for: the lock file, a mirror, offline mode."""
    parser.add_argument("--lock", type=Path, help="lock file that keeps revisions and hashes (data.lock.json)")
    parser.add_argument("--mirror", type=Path, help="folder of local copies, laid out as DIR/<hub id>/files")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the hub to answer")


def hub_of(arguments: argparse.Namespace) -> Hub:
    """Return the Hub that parsed `add_hub_arguments` options describe."""
    return Hub(mirror=arguments.mirror, offline=arguments.offline, timeout=arguments.timeout)


def main() -> None:
    """Parse the command line and download one source."""
    parser = argparse.ArgumentParser(
        prog="python -m justrl.data.download", description="Download one source into a folder, with source.json."
    )
    parser.add_argument("kind", choices=("dataset", "benchmark", "model"))
    parser.add_argument("--hub-id", required=True, help="for example BytedTsinghua-SIA/DAPO-Math-17k")
    parser.add_argument(
        "--revision", default="main", help="branch, tag or commit; a branch is resolved once and locked"
    )
    parser.add_argument("--config", "--hub-config", help="configuration of the data set, where its files differ by it")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    add_hub_arguments(parser)
    arguments = parser.parse_args()
    source = locate(
        "model" if arguments.kind == "model" else "dataset",
        arguments.hub_id,
        arguments.revision,
        config=arguments.config,
        lock=arguments.lock,
        hub=hub_of(arguments),
    )
    download(source, arguments.output)
    print(f"{source.hub_id} at {source.revision or 'an unrecorded revision'} from {source.origin}: {arguments.output}")


if __name__ == "__main__":
    from justrl.cli import run

    run(main)
