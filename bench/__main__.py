"""Compare our speed with that of peers: same work, same machine, in turns, and only if both get the same result.

    make bench                                (or python bench [--rounds 7] [--only reward cleaning])

Times are processor time, which depends less on other load than elapsed time. A ratio compares two consecutive
measurements; the median, smallest and largest ratio are shown. Measurements are saved in results/bench.json, each row
with its date, machine and versions, and the table and figure of docs/measured.md are made from that file. If a peer is
not installed, its row reports it.
"""

import argparse
import datetime
import os
import platform
import re
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rows_apart
import rows_here
import rows_workflow
import step_rows
from work import ROOT, measure

from justrl.errors import UserError
from justrl.io import read_json, write_json

PAGE = ROOT / "docs/measured.md"
FIGURE = "![Each ratio with its spread](bench.png)"
PART = re.compile(r"(<!-- measured: peers -->\n).*?(<!-- end -->)", re.S)

WORKS = {
    "reward": rows_here.reward,
    "log_probabilities": rows_here.log_probabilities,
    "entropies": rows_here.log_probabilities_and_entropies,
    "cleaning": rows_here.cleaning,
    "cleaning_distinct": rows_here.cleaning_distinct,
    "dry_run": rows_workflow.dry_run,
    "nothing_to_do": rows_workflow.nothing_to_do,
    "grpo_step_tiny": step_rows.tiny,
    "grpo_step_two_threads": step_rows.two_threads,
    "grpo_step_tiny_ragged": step_rows.ragged,
    "grpo_step_39m": step_rows.large,
    "grpo_step_smollm2": step_rows.real,
    "symbolic": rows_apart.symbolic,
    "generation": rows_apart.generation,
}


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Measure one row, or give the reason why it cannot be measured; with its machine and versions."""
    try:
        work = WORKS[name]()
        made: dict[str, Any] = {field: getattr(work, field) for field in ("name", "peer", "floor", "target")}
        made |= measure(work, rounds)
    except UserError as error:
        made = {"name": name.replace("_", " "), "peer": "", "why_not": str(error)}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    packages = {name: version(name) for name in ("torch", "pyarrow", "numpy", "transformers", "snakemake")}
    return made | {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": {"python": platform.python_version(), **packages},
        "machine": machine,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| work | peer | peer's time / ours | wanted | floor |", "|---|---|---|---|---|"]
    for made in rows:
        if "why_not" in made:
            lines.append(f"| {made['name']} | {made['peer']} | not measured: {made['why_not']} | | |")
            continue
        ratio = f"**{made['ratio']:.2f}** [{made['least']:.2f}, {made['greatest']:.2f}]"
        if made["memory_ratio"]:
            ratio += f"; {1 / made['memory_ratio']:.0%} of the memory"
        # Rows saved by earlier versions have no elapsed ratio.
        if made.get("elapsed_ratio"):
            ratio += f"; by the clock {made['elapsed_ratio']:.2f}"
        floor = made["floor"]
        if share := made.get("library_share"):
            floor += f", {share:.0%} of our time: at most {made['ratio'] / share:.2f}"
        lines.append(f"| {made['name']} | {made['peer']} | {ratio} | {made['target']:.2f} | {floor} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each ratio with its range on one logarithmic axis, and its target as a bar."""
    from matplotlib.figure import Figure

    from justrl.report.figure_style import COLORS, INK, MUTED, house_style

    rows = [made for made in rows if "ratio" in made][::-1]
    # Text in parentheses is only for the table.
    names = [textwrap.fill(re.sub(r" \(.*\)$", "", made["name"]), 44) for made in rows]
    peers = [textwrap.fill(f"compared with {made['peer']}", 44) for made in rows]
    with house_style():
        figure = Figure(figsize=(8.5, 0.62 * len(rows) + 1.1), layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="x")
        axes.axvline(1, color=MUTED, linewidth=1)
        for place, made in enumerate(rows):
            color = COLORS[0] if made["ratio"] >= made["target"] else COLORS[1]
            axes.plot([made["least"], made["greatest"]], [place] * 2, color=color, linewidth=4, alpha=0.35)
            axes.plot(made["ratio"], place, "o", color=color, markersize=7)
            axes.plot(made["target"], place, "|", color=INK, markersize=16, markeredgewidth=1.5)
            axes.annotate(
                f"{made['ratio']:.2f}", (made["ratio"], place), (0, 10), textcoords="offset points", ha="center"
            )
        axes.set_yticks(
            range(len(rows)), [f"{name}\n{peer}" for name, peer in zip(names, peers, strict=True)], fontsize=7
        )
        axes.margins(x=0.1)
        axes.set_ylim(-0.6, len(rows) - 0.3)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title("Times as fast as the peer, least to greatest round; the bar is what is wanted", loc="right")
        figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print and save the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at most; rows that take long have fewer")
    parser.add_argument("--only", nargs="*", choices=WORKS, default=list(WORKS), help="measure these rows, or none")
    parser.add_argument("--page", action="store_true", help="write docs/ from all rows kept, as without --only")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench.json")
    arguments = parser.parse_args()
    kept = read_json(arguments.output) if arguments.output.is_file() else {}
    for name in arguments.only:
        kept[name] = measured(name, arguments.rounds)
        print(table([kept[name]]).splitlines()[-1], flush=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, kept)
    if arguments.page or arguments.only == list(WORKS):
        rows = [kept[name] for name in WORKS if name in kept]
        page = PAGE.read_text(encoding="utf-8")
        part = f"{table(rows)}\n{FIGURE}\n"
        PAGE.write_text(PART.sub(lambda found: found[1] + part + found[2], page), encoding="utf-8")
        draw(rows, PAGE.with_name("bench.png"))
    if missing := [name for name in arguments.only if "why_not" in kept[name]]:
        raise UserError(f"not measured: {', '.join(missing)}; the rows above say why")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
