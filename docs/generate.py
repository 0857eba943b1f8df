"""Write the generated parts of the documentation, or list the stale ones: `python docs/generate.py [--check]`.

A page marks each part by `<!-- generated: NAME -->` and `<!-- end -->`. The text between them is generated from the
code: the settings of verl, the keys of the configuration, the map of the package. The configuration's JSON schema, for
editors, is written too.
"""

import argparse
import ast
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "workflow/justrl"
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
PART = re.compile(r"(<!-- generated: (?P<name>.+?) -->\n).*?(?P<end><!-- end -->)", re.S)
# From the top layer to the bottom.
ROOMS = ("cli", "status", "preflight", "plan", "workflow", "report", "evaluation", "training", "training/reference")
ROOMS += ("training/verl", "data", "verifiers", "hardware", "models", "config", ".")


def verl_table(part: str) -> str:
    """verl's settings for the run `deepseek`: part is recipe, speed or run."""
    from justrl import config
    from justrl.training.verl import settings, table

    return table.markdown(getattr(settings, part.upper()), table.request_for(config.load(), "deepseek"))


def configuration() -> str:
    """One table for each part of the configuration, from its JSON schema."""
    schema = json_schema()
    paper = yaml.safe_load((ROOT / "config.yaml").read_text())
    lines = []
    for path, part in parts(schema, schema, "", set()):
        lines += [f"### {title(path, part)}" if path else "### The whole", ""]
        lines += [f"{sentence(part['description'])}", ""] if path and part.get("description") else []
        lines += ["| key | in config.yaml | accepts | meaning |", "|---|---|---|---|"]
        lines += [row(name, key, schema, at(paper, path)) for name, key in part["properties"].items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def json_schema() -> dict[str, Any]:
    """The JSON schema of config.yaml merged with its overlays, for editors and the documentation."""
    from justrl.config import Experiment

    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    # The common recipe must be complete; a run names only the keys that it changes.
    complete = {name: definitions[name].pop("required") for name in ("Recipe", "OverlongPenalty")}
    penalty = {"overlong_penalty": {"required": complete["OverlongPenalty"]}}
    schema["properties"]["recipe"] |= {"required": complete["Recipe"], "properties": penalty}
    schema["properties"]["extends"] = {
        "description": "Overlay file that this overlay builds on, merged before it.",
        "type": "string",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tidy(schema)}


# pydantic's names for the limits of a type that has a validator of ours before it.
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def tidy(node: Any) -> Any:
    """Convert to plain JSON schema: its names for limits, a list for simple types, no generated titles, types first.

    Names that match no pattern are refused. Patterns match only up to the end of the text: Python's `$`, unlike
    pydantic's, would allow one more newline.
    """
    if isinstance(node, str):
        return whole(node)
    if isinstance(node, list):
        return [tidy(value) for value in node]
    if not isinstance(node, dict):
        return node
    titled = isinstance(node.get("title"), str)
    kept = {key: value for key, value in node.items() if key != "discriminator" and not (titled and key == "title")}
    node = {LIMITS.get(key, whole(key)): tidy(value) for key, value in kept.items()}
    if "patternProperties" in node:
        node["additionalProperties"] = False
    if all(kind.keys() == {"type"} for kind in node.get("anyOf", [{}])):
        node["type"] = [kind["type"] for kind in node.pop("anyOf")]
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node.pop("description").split())
    return {"type": node.pop("type"), **node} if isinstance(node.get("type"), str | list) else node


def whole(text: str) -> str:
    """Change a pattern so that it matches nothing after its end; other text is unchanged."""
    return rf"{text}(?!\n)" if text.startswith("^") and text.endswith("$") else text


def schema_file() -> str:
    """The JSON schema of the configuration, as a file."""
    return "\n".join(["# Made of workflow/justrl/config by `make docs`; do not edit.", *block(json_schema()), ""])


def block(node: dict, depth: int = 0) -> Iterator[str]:
    """A mapping as lines of YAML, one entry per line, wrapped if long; nested mappings are expanded."""
    indent = "  " * depth
    for key, value in node.items():
        flow = yaml.safe_dump({key: value}, sort_keys=False, width=10**6, default_flow_style=True, allow_unicode=True)
        line = indent + flow.strip()[1:-1]
        if isinstance(value, dict) and (len(line) > 230 or key == "properties"):
            yield f"{indent}{key}:"
            yield from block(value, depth + 1)
        else:
            yield textwrap.fill(line, 120, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def parts(schema: dict, node: dict, path: str, seen: set[str]) -> Iterator[tuple[str, dict]]:
    """Every mapping with its own keys, by dotted path; `<name>` is a name that the user chooses."""
    for target in alternatives(schema, node):
        if "properties" in target:
            signature = json.dumps(target, sort_keys=True)
            # A run may change keys of the recipe; these are listed once, in the recipe's table.
            if signature in seen or path.startswith("runs.<name>.recipe"):
                continue
            seen.add(signature)
            yield path, target
            for name, child in target["properties"].items():
                yield from parts(schema, child, f"{path}.{name}".lstrip("."), seen)
        for child in named(target):
            yield from parts(schema, child, f"{path}.<name>", seen)


def named(node: dict) -> list[dict]:
    """The values allowed under names of the user's choice."""
    under = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    return [child for child in under if isinstance(child, dict)]


def alternatives(schema: dict, node: dict) -> list[dict]:
    """The alternatives of a node, with references resolved; a node's own description overrides the referenced one."""
    if "$ref" in node:
        target = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return alternatives(schema, target | {key: node[key] for key in ("description", "default") if key in node})
    for word in ("oneOf", "anyOf", "allOf"):
        if word in node:
            return [found for choice in node[word] for found in alternatives(schema, choice)]
    return [node]


def title(path: str, part: dict) -> str:
    """The path of a part, with its source if there are parts of several kinds."""
    source = part["properties"].get("source", {}).get("const")
    return f"`{path}`" + (f", source `{source}`" if source else "")


def row(name: str, node: dict, schema: dict, values: Any) -> str:
    """One key: the paper's value if it is a simple one, accepted values, and the description."""
    choices = alternatives(schema, node)
    description = node.get("description") or next((c["description"] for c in choices if "description" in c), "")
    value = values.get(name) if isinstance(values, dict) else None
    plain = isinstance(values, dict) and name in values and not isinstance(value, dict)
    shown = f"`{cell(json.dumps(value, ensure_ascii=False))}`" if plain else ""
    accepted = cell(" or ".join(dict.fromkeys(map(accepts, choices))))
    meaning = cell(sentence(description)).replace("<", "\\<")
    return f"| `{name}` | {shown} | {accepted} | {meaning} |"


def accepts(node: dict) -> str:
    """A value's type and limits in words."""
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{json.dumps(value)}`" for value in node["enum"])
    kinds = node.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    words = {"object": "mapping", "array": "list", "string": "text", "boolean": "true, false", "null": "null"}
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    if "minimum" in node and node["minimum"] == node.get("maximum"):
        return f"`{node['minimum']:g}`"
    bounds = [f"{sign} {node[limit]:g}" for limit, sign in limits.items() if limit in node]
    return " or ".join(words.get(kind, kind) for kind in kinds) + ("" if not bounds else f" {', '.join(bounds)}")


def at(config: Any, path: str) -> Any:
    """The value at a dotted path of config.yaml, or None if the path contains a name of the user's choice."""
    for word in filter(None, path.split(".")):
        config = config.get(word) if isinstance(config, dict) else None
    return config


def cell(text: str) -> str:
    """Escape text for a table cell."""
    return text.replace("|", "\\|")


def rooms() -> str:
    """The package layer by layer: the purpose of each subpackage and its modules, from their docstrings."""
    lines = []
    for room in ROOMS:
        folder = PACKAGE / room
        name = "justrl" if room == "." else "justrl." + room.replace("/", ".")
        lines += [f"### `{name}`", "", summary(folder / "__init__.py"), "", "| module | what it holds |", "|---|---|"]
        modules = sorted(path for path in folder.glob("*.py") if not path.name.startswith("__"))
        lines += [f"| `{path.stem}` | {cell(summary(path))} |" for path in modules]
        lines.append("")
    return "\n".join(lines).rstrip()


def rules() -> str:
    """The rule files and their purpose, from their docstrings."""
    lines = ["| file | what its rules make |", "|---|---|"]
    for path in sorted((ROOT / "rules").glob("*.smk")):
        lines.append(f"| `rules/{path.name}` | {cell(first_paragraph(path.read_text().split(chr(34) * 3)[1]))} |")
    return "\n".join(lines)


def summary(module: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    return first_paragraph(ast.get_docstring(ast.parse(module.read_text())) or "")


def first_paragraph(text: str) -> str:
    """A docstring up to its first empty line, on one line."""
    return " ".join(text.strip().split("\n\n")[0].split())


def sentence(text: str) -> str:
    """Text on one line, ending with a full stop."""
    text = " ".join(text.split())
    return text if not text or text.endswith((".", ":")) else f"{text}."


def backtest() -> str:
    """The output of `justrl plan --backtest`."""
    from justrl.plan import backtest

    return f"```text\n{backtest.render()}\n```"


def planned(overlays: Sequence[str], words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan's rows and memory of the first run, ignoring measurements in this checkout's results folder."""
    from justrl import config
    from justrl.plan import planning

    loaded = config.load(overlays, words)
    made = planning.make_plan(loaded.model_copy(update={"pathvars": {"results": "results/of-nobody"}}))
    return made["runs"][loaded.enabled[0]], made["memory"][loaded.enabled[0]]


def ranged(row: dict[str, Any], factor: float = 1.0) -> str:
    """Format an estimate and its range."""
    value, low, high = (
        f"{factor * row[key]:,.{0 if factor * row['low'] >= 20 else 1}f}" for key in ("value", "low", "high")
    )
    return f"{value} ({low}-{high})"


def cost() -> str:
    """The time and GPU hours of the run `deepseek` on several kinds of hardware."""
    lines = ["| hardware | `justrl plan` with | seconds per step | days | GPU hours |", "|---|---|---:|---:|---:|"]
    lines.append("| 4 x 8 A800, the paper's, as published | | 296 | 15 | 11,520 |")
    for where, options in COSTS:
        words = ["hardware.engine.cuda_graphs=false"] if "cuda_graphs" in options else []
        words += [f"hardware.nodes={options.split()[1]}"] if "--nodes" in options else []
        words += [f"hardware.gpu={options.split()[1]}"] if "--gpu" in options else []
        rows, _ = planned([], words)
        cells = [ranged(rows[name]) for name in ("seconds per step", "training", "training GPU hours")]
        lines.append(f"| {where} | {f'`{options}`' if options else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


COSTS = (
    ("the same, estimated", "--nodes 4 --set hardware.engine.cuda_graphs=false"),
    ("1 x 8 A800, the default", ""),
    ("1 x 8 H100", "--gpu H100"),
    ("1 x 8 H200", "--gpu H200"),
    ("1 x 8 B200", "--gpu B200"),
)


def one_gpu() -> str:
    """The needs of the one-GPU experiment on several GPUs."""
    lines = ["| card | model | seconds per step | training, hours | evaluation, hours | fullest phase |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    deepseek = "DeepSeek-R1-Distill-Qwen-1.5B"
    for card, model, overlay, words in (
        ("A100 or A800, 80 GB", deepseek, "experiment", []),
        ("H100, 80 GB (`--set hardware.gpu=H100`)", deepseek, "experiment", ["hardware.gpu=H100"]),
        ("L40S, 48 GB (`48gb.yaml`)", deepseek, "48gb", []),
        ("RTX 4090, 24 GB (`24gb.yaml`)", "Qwen2.5-0.5B-Instruct, 400 steps of at most 4,096 tokens", "24gb", []),
    ):
        rows, memory = planned([f"one_gpu/{overlay}.yaml"], words)
        fullest = max(sum(parts.values()) for parts in memory["phases"].values())
        cells = [ranged(rows["seconds per step"]), ranged(rows["training"], 24), ranged(rows["evaluation GPU hours"])]
        lines.append(f"| {card} | {model} | {' | '.join(cells)} | {fullest:.0f} of {memory['card']:.0f} GiB |")
    return "\n".join(lines)


PARTS = {
    "backtest": backtest,
    "cost": cost,
    "one gpu": one_gpu,
    "verl recipe": lambda: verl_table("recipe"),
    "verl speed": lambda: verl_table("speed"),
    "verl run": lambda: verl_table("run"),
    "configuration": configuration,
    "rooms": rooms,
    "rules": rules,
}


def render(page: str) -> str:
    """A page's text with every generated part regenerated."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part['name']]()}\n\n{part['end']}", page)


def main() -> int:
    """Write the pages; with --check only compare, and return 1 if one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say which pages are stale")
    check = parser.parse_args().check
    fresh = {path: render(path.read_text()) for path in sorted(DOCS.glob("*.md"))} | {SCHEMA: schema_file()}
    stale = {path: text for path, text in fresh.items() if text != path.read_text()}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        print(f"{path.relative_to(ROOT)} {'is stale: run `make docs`' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
