"""verl's full training states on disk: which are complete, which one to resume from, which to remove.

<checkpoints>/global_step_N/actor/{model,optim,extra_state}_world_size_W_rank_R.pt, data.pt
<checkpoints>/latest_checkpointed_iteration.txt      the step from which verl resumes
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from justrl.errors import UserError
from justrl.io import atomic_write
from justrl.training.segment import check_not_left_behind, way_back

LATEST = "latest_checkpointed_iteration.txt"
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_KINDS = ("model", "optim", "extra_state")


@dataclass(frozen=True)
class State:
    """A complete training state."""

    step: int
    folder: Path
    ranks: int


def states(checkpoints: Path) -> list[State]:
    """Return the complete states in `checkpoints`, oldest first; states that a crash left incomplete are skipped."""
    found = []
    for folder in checkpoints.glob("global_step_*"):
        step, ranks = folder.name.removeprefix("global_step_"), _ranks_if_whole(folder)
        if step.isdigit() and ranks:
            found.append(State(int(step), folder, ranks))
    return sorted(found, key=lambda state: state.step)


def _ranks_if_whole(folder: Path) -> int:
    """Return the number of ranks of the state in `folder`, or 0 if one of its files is missing or empty.

    verl writes data.pt after all ranks have saved.
    """
    sizes = {int(match[1]) for file in folder.glob("actor/*.pt") if (match := _SHARD.fullmatch(file.name))}
    if len(sizes) != 1:
        return 0
    (ranks,) = sizes
    shards = [folder / "actor" / f"{kind}_world_size_{ranks}_rank_{r}.pt" for kind in _KINDS for r in range(ranks)]
    files = [*shards, folder / "data.pt", folder / "actor" / "fsdp_config.json"]
    return ranks if all(file.is_file() and file.stat().st_size for file in files) else 0


def choose(checkpoints: Path, ranks: int, start_step: int, last_step: int, logged: set[int]) -> int:
    """Return the step to resume from: the newest complete state whose steps since `start_step` all have metrics.

    verl saves a step before it logs it, so a state may be newer than the log. Then the previous state is chosen, and
    the steps between are trained again. Returns 0 to start from the base model.

    Raises UserError: the states have another number of ranks, one is after the end of the segment, or the state that
        the segment starts from is missing.
    """
    found = states(checkpoints)
    candidates = [state for state in found if start_step <= state.step <= last_step]
    if others := {state.ranks for state in candidates} - {ranks}:
        raise UserError(
            f"{checkpoints} holds the state of {max(others)} ranks, and this job has {ranks}: FSDP states load only on "
            f"as many GPUs as saved them; ask for as many: {_way_back(checkpoints)}"
        )
    whole = (state.step for state in reversed(candidates) if logged.issuperset(range(start_step + 1, state.step + 1)))
    start = next(whole, None)
    newest = found[-1].step if found else 0
    check_not_left_behind(checkpoints, start_step if start is None else start, last_step, newest)
    if start is not None:
        return start
    if start_step:
        raise UserError(
            f"{checkpoints} holds no training state of step {start_step}, from which this segment starts: "
            f"{_way_back(checkpoints)}"
        )
    return 0


def _way_back(checkpoints: Path) -> str:
    work = checkpoints.parent
    return way_back(work.parent.name, work)


def point_to(checkpoints: Path, step: int) -> None:
    """Make verl resume from `step` (0: from the base model) and remove all other states."""
    for folder in checkpoints.glob("global_step_*"):
        if folder.name != f"global_step_{step}":
            shutil.rmtree(folder)
    if step:
        with atomic_write(checkpoints / LATEST) as handle:
            handle.write(str(step))
    else:
        (checkpoints / LATEST).unlink(missing_ok=True)


def remove_all_but_newest(checkpoints: Path) -> None:
    """Keep only the newest complete state; called before each save, so that at most two are on disk."""
    found = states(checkpoints)
    kept = found[-1].folder if found else None
    for folder in checkpoints.glob("global_step_*"):
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)
