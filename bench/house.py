"""Print the size of the code: `python bench/house.py [FOLDER]`, where FOLDER is another checkout to compare with.

`python bench/house.py --step` prints the files of the package that one training step of the reference engine enters.

Lines of code are lines with a token that is neither a comment nor part of a docstring.
"""

import argparse
import ast
import io
import sys
import threading
import tokenize
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that are code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(text))


def docstring_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines that are part of a docstring."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def size_of(folder: Path) -> dict[str, float]:
    """Files, lines of code, the longest file, functions, the longest function, docstring and comment lines."""
    files, longest, functions, documented, comments = {}, 0, [], 0, 0
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree, code = ast.parse(text), code_lines(text)
        files[path] = len(code)
        documented += len(docstring_lines(tree))
        comments += sum(t.type == tokenize.COMMENT for t in tokenize.generate_tokens(io.StringIO(text).readline))
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                functions.append(len(code & set(range(node.lineno, node.end_lineno + 1))))
    longest = max(files.values(), default=0)
    return {
        "files": len(files),
        "lines of code": sum(files.values()),
        "longest file": longest,
        "functions": len(functions),
        "median function": median(functions) if functions else 0,
        "longest function": max(functions, default=0),
        "functions above 60 lines": sum(length > 60 for length in functions),
        "docstring and comment lines per function": round((documented + comments) / max(1, len(functions)), 2),
    }


def sizes(root: Path) -> dict[str, float]:
    """The sizes of a checkout: its package, its tests, its rules."""
    rows = {f"package: {name}": value for name, value in size_of(root / "workflow/justrl").items()}
    tests = size_of(root / "tests")
    rows |= {f"tests: {name}": tests[name] for name in ("files", "lines of code")}
    rules = [root / "Snakefile", *(root / "rules").glob("*.smk")]
    rows["rules and Snakefile: lines"] = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in rules)
    return rows


def files_of_a_step() -> list[str]:
    """Files of the package with a function that runs in one step of the reference engine, on a tiny model."""
    sys.path.insert(0, str(ROOT / "workflow"))
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from justrl.config import load
    from justrl.training.reference.step import GRPOTrainer, RolloutBatch

    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, **heads))
    recipe = load().recipe.model_copy(update={"mini_batch_prompts": 1, "micro_batch_per_gpu": 1, "dtype": "float32"})
    trainer = GRPOTrainer(model, torch.optim.AdamW(model.parameters()), recipe)
    batch = RolloutBatch([[1, 2]] * 2, [[3, 4], [5]], torch.tensor([[1.0, -1.0]]), [[-2.0, -2.0], [-2.0]])
    entered: set[str] = set()
    for watch in (threading.setprofile, sys.setprofile):  # micro-batches run in threads of their own
        watch(lambda frame, event, argument: entered.add(frame.f_code.co_filename))
    trainer.train_step(batch)
    sys.setprofile(None)
    package = ROOT / "workflow/justrl"
    return sorted(str(Path(name).relative_to(package)) for name in entered if Path(name).is_relative_to(package))


def main() -> None:
    """Print the sizes of this checkout, next to those of another."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", nargs="?", type=Path, help="another checkout to compare with")
    parser.add_argument("--step", action="store_true", help="print the files that one training step enters")
    arguments = parser.parse_args()
    if arguments.step:
        print("\n".join(files_of_a_step()))
        return
    here = sizes(ROOT)
    there = sizes(arguments.other) if arguments.other else {}
    for name, value in here.items():
        before = f"{there[name]:>10,} ->" if there else ""
        share = f"  {value / there[name]:.0%}" if there and there[name] else ""
        print(f"{name:<52}{before}{value:>10,}{share}")


if __name__ == "__main__":
    main()
