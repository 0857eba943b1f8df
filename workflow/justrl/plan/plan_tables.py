"""The plan as text for the terminal: what each run needs, GPU memory by component, and other kinds of GPU."""

import textwrap
from collections.abc import Mapping

from justrl.config import Experiment
from justrl.config.gpu_specs import GPUS
from justrl.hardware.checks import FAILED
from justrl.plan.planning import expected_step_seconds, on, plan_memory

# Display names of some quantities of the plan.
LABELS = {"time asked per job": "requested job time"}
# (nodes, GPUs per node) that `render_kinds` compares; the last is the paper's.
COUNTS = ((1, 1), (1, 2), (1, 4), (1, 8), (4, 8))


def render(plan: Mapping) -> str:
    """The plan as a table for the terminal."""
    hardware = plan["hardware"]
    nodes = f"{hardware['nodes']} node{'s' if hardware['nodes'] > 1 else ''}"
    where = f"{nodes} with {hardware['gpus_per_node']} x {hardware['gpu']}"
    if not hardware["gpus_per_node"]:
        where = "a CPU"
    lines = [f"Experiment {plan['experiment']} on {where}"]
    for name, rows in plan["runs"].items():
        lines += ["", name]
        for quantity, row in rows.items():
            label = LABELS.get(quantity, quantity)
            lines.append(f"  {label:<22}{format_value(row['value']):>10} {row['unit']:<6} {_derived(row)}")
        if plan["memory"][name]:
            lines += render_memory(plan["memory"][name])
    totals: dict[tuple[str, str], float] = {}
    for rows in plan["runs"].values():
        for quantity in ("training GPU hours", "evaluation GPU hours", "disk at most"):
            if quantity in rows:
                key = quantity, rows[quantity]["unit"]
                totals[key] = totals.get(key, 0.0) + rows[quantity]["value"]
    count = len(plan["runs"])
    lines += ["", f"all {count} runs" if count > 1 else "in total"]
    lines += [f"  {quantity:<22}{format_value(value):>10} {unit}" for (quantity, unit), value in totals.items()]
    return "\n".join(lines)


def _derived(row: Mapping) -> str:
    """The derivation of a figure, with the range if it is an estimate."""
    if row["low"] is None:
        return row["how"]
    return f"estimate, {format_value(row['low'])} to {format_value(row['high'])}: {row['how']}"


def render_memory(memory: Mapping) -> list[str]:
    """GPU memory by component, one column per phase."""
    settings = ", ".join(f"{key} {value}" for key, value in memory["settings"].items())
    lines = [f"  memory of each GPU in GiB, of {memory['card']:.1f}: {settings}"]
    phases = memory["phases"]
    heads = {phase: textwrap.wrap(phase, 11, break_long_words=False) for phase in phases}
    widths = {phase: 2 + max(map(len, heads[phase])) for phase in phases}
    for number in range(max(map(len, heads.values()), default=0)):
        cells = "".join(f"{(*heads[phase], '', '')[number]:>{widths[phase]}}" for phase in phases)
        lines.append(f"    {'':<14}{cells}")
    for part in dict.fromkeys(part for phase in phases.values() for part in phase):
        filled = [(widths[phase], phases[phase].get(part)) for phase in phases]
        cells = "".join(f"{gib:>{width}.1f}" if gib else " " * width for width, gib in filled)
        lines.append(f"    {part:<14}{cells}")
    if phases:
        lines.append(
            f"    {'sum':<14}"
            + "".join(f"{sum(filled.values()):>{widths[phase]}.1f}" for phase, filled in phases.items())
        )
    check = memory["check"]
    return [*lines, f"    {check['status']}: " + "; ".join(filter(None, (check["found"], check["remedy"])))]


def render_kinds(experiment: Experiment) -> str:
    """Every known kind of GPU: what fits, and estimated seconds per step of the first run, also without CUDA graphs."""
    name = experiment.enabled[0]
    rows = [["", *(str(nodes * gpus) for nodes, gpus in COUNTS)]]
    rows += [[kind, *(_cell(experiment, name, kind, *count) for count in COUNTS)] for kind in GPUS]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COUNTS) + 1)]
    lines = [
        f"{name} by number of GPUs: estimated seconds per step (in parentheses: without CUDA graphs), "
        "gpu_memory_utilization"
    ]
    for kind, *cells in rows:
        lines.append(f"{kind:<{widths[0]}}" + "".join(f"{c:>{w + 2}}" for c, w in zip(cells, widths[1:], strict=True)))
    return "\n".join([*lines, "-: does not fit; *: the optimizer's moments are in CPU memory"])


def _cell(experiment: Experiment, name: str, kind: str, nodes: int, gpus: int) -> str:
    hardware = on(experiment.hardware, kind, nodes, gpus)
    seconds = []
    for graphs in (True, False):
        engine = hardware.engine.model_copy(update={"cuda_graphs": graphs})
        there = experiment.model_copy(update={"hardware": hardware.model_copy(update={"engine": engine})})
        seconds.append(expected_step_seconds(there, name).value)
    times, memory = f"{seconds[0]:.0f} ({seconds[1]:.0f})", plan_memory(there, name)
    if memory is None:
        return times
    if memory["check"]["status"] == FAILED:
        return "-"
    settings = memory["settings"]
    if "gpu_memory_utilization" not in settings:
        return times
    return f"{times} {settings['gpu_memory_utilization']:.2f}{'*' if settings['offload_optimizer'] else ''}"


def format_value(value: float) -> str:
    """Format a figure with a suitable number of digits."""
    if value >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"
