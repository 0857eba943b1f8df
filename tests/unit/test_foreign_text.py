"""Text from other people's files: chat templates, labels, cards and names end in a sentence or are shown as written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from justrl.cli.terminal import printable
from justrl.data.tables import find_data_files
from justrl.errors import UserError
from justrl.models import chat_template
from justrl.models.chat_template import ChatTokenizer
from justrl.report import figure_style
from justrl.report.html_tables import Section, Text, markdown
from justrl.report.model_card import _yaml, licence
from tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
TEMPLATES = {
    "type": ("{{ messages + 1 }}", "TypeError"),
    "zero": ("{{ 7 % 0 }}", "ZeroDivisionError"),
    "recursion": ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
    "overflow": ("{{ 2.0 ** 5000 }}", "OverflowError"),
    "include": ("{% include 'other.jinja' %}", "no loader"),
    "import": ("{% import 'macros' as macros %}", "no loader"),
    "value": ("{{ '%d' | int(base=99) }}{{ 'abc'.index('z') }}", "ValueError"),
    "key": ("{{ {}.pop('x') }}", "unsafe|KeyError"),
    "deep": ("{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}", "RecursionError"),
    "brackets": ("{{ [" * 9, "unexpected"),
    "bytes": (b"{{ messages }} \xff\xfe", "not UTF-8 at byte 15"),
    "memory": ("{{ 'ab' * 10 ** 10 }}", "2 GB of memory"),
    "list": ("{{ [0] * 10 ** 10 }}", "2 GB of memory"),
    "long": ("{{ 'a' * 30000000 }}", "30,000,000 characters"),
    "large": ("a" * 2_000_000, "too many for this kind of file"),
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 2 s"),
    "power": ("{{ 7 ** (7 ** 12) }}", "more than 2 s"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("foreign") / "model")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_chat_template_that_fails_or_never_ends_is_a_sentence_with_its_file(kind, model, monkeypatch):
    template, said = TEMPLATES[kind]
    monkeypatch.setattr(chat_template, "MOST_SECONDS", 2)
    path = model / "chat_template.jinja"
    path.write_bytes(template if isinstance(template, bytes) else template.encode())
    with pytest.raises(UserError, match=said) as refused:
        ChatTokenizer(model).render(QUESTION)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("named", [7, {"default": "x"}, [{"name": "default", "template": ["x"]}]])
def test_a_chat_template_that_is_no_text_is_refused(named, model):
    (model / "chat_template.jinja").unlink(missing_ok=True)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    with pytest.raises(UserError, match=r"tokenizer_config\.json: chat_template must be text"):
        ChatTokenizer(model)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("Today is {{ strftime_now('%d %B %Y') }}. {{ messages[0].content }}", "Today is 26 July 2024. What is 2 + 3?"),
        ("{% if strftime_now('%H') | int > 12 %}Good afternoon{% else %}Good morning{% endif %}", "Good morning"),
        ("{% if tools %}{{ strftime_now('%Y') }}{% endif %}{{ messages[0].content }}", "What is 2 + 3?"),
    ],
)
def test_a_prompt_is_the_same_on_every_day(model, template, prompt, capsys):
    (model / "chat_template.jinja").write_text(template)
    tokenizer = ChatTokenizer(model)
    assert tokenizer.render(QUESTION) == prompt
    assert ("writes today's date; here it is 26 Jul 2024" in capsys.readouterr().err) == tokenizer.dated
    assert tokenizer.dated == (prompt != "What is 2 + 3?")


def test_a_tokenizer_tries_its_template_once(model, monkeypatch):
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tokenizer, started = ChatTokenizer(model), []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: started.append(words) or run(*words, **options))
    assert [tokenizer.render(QUESTION) for _ in range(3)] == ["What is 2 + 3?"] * 3 and len(started) == 1


LABELS = [
    "$\\frac{$",
    "a $x$ b",
    "$",
    "\\$5$",
    "<script>alert(1)</script>",
    "*bold* _it_ `code`",
    "[a](http://b)",
    "~~no~~",
]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_drawn_as_written(label):
    with figure_style.house_style():
        figure = Figure()
        axis = figure.subplots()
        axis.set_title(label)
        axis.set_yticks([0], [label])
        figure_style.add_header(figure, label, label)
        figure.canvas.draw()


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_shown_as_written_in_markdown(label):
    from huggingface_hub.utils import yaml_dump

    section = Section(label, ["What", label], [[Text(label), Text("1", note=label)]], lead=label, notes=(label,))
    text = markdown(label, [section], "paper")
    for markup in ("<script", "](", "_it", " `code", "| *bold"):
        assert markup not in text.replace("\\" + markup.strip("| "), ""), text
    assert not any(mark in text.replace(f"\\{mark}", "") for mark in "*`~$")
    front = _yaml({"name": label, "list": [label]})
    assert yaml.safe_load(front) == {"name": label, "list": [label]} and "<" not in front
    assert "<" in label or front == yaml_dump({"name": label, "list": [label]}, sort_keys=False).strip()


def test_what_is_no_markup_stays_as_it_is():
    told = "avg@4, paper_rules [12.3, 45.6] ±1.0: within \\boxed{} (see run_1)"
    assert told in markdown("x", [Section("x", ["x"], lead=told)], "paper")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CARDS = {
    "bomb": BOMB.encode(),
    "bytes": b"configs: \xff\xfe",
    "brackets": b"x: " + b"[" * 100_000,
    "list": b"- 1",
    "number": b"configs: 7",
    "text": b"configs: [one, two]",
    "mapping": b"configs: {data_files: x}",
    "files": b"configs: [{config_name: default, data_files: 7}]",
    "paths": b"configs: [{config_name: default, data_files: [{split: train, path: [1, null]}, {path: 3}]}]",
    "python": b"configs: !!python/object/apply:os.system [true]",
    "large": b"license: mit\n" + b"# x\n" * 1_000_000,
}


@pytest.mark.parametrize("card", CARDS)
def test_an_odd_card_of_a_data_set_is_left_aside(card, tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\n" + CARDS[card] + b"\n---\n")
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("question,answer\n1+1,2\n")
    started = time.process_time()
    assert find_data_files(tmp_path, None, "train") == [tmp_path / "train.csv"]
    assert licence(tmp_path) is None
    assert time.process_time() - started < 20


def justrl(*words, python=(), **environment):
    command = [sys.executable, *python, "-m", "justrl", *map(str, words)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize(
    "environment", [{}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
@pytest.mark.parametrize(
    "name", ["\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "设", "é\u202eb", os.fsdecode(b"caf\xe9"), "a\rb"]
)
def test_names_of_folders_neither_steer_the_terminal_nor_end_the_command(name, environment, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for words, status in ((["status", "--results", folder], 0), (["verify", "--results", folder / "absent"], 2)):
        done = justrl(*words, **environment)
        both = done.stdout + done.stderr
        assert done.returncode in (status, 2) and b"Traceback" not in both, both
        assert not {0x1B, 0x07, 0x0D} & set(both) and b"\xe2\x80\xae" not in both and b"\xc2\x9b" not in both


def test_printable_text_stays():
    assert printable("a\tb\n设 é − “x”") == "a\tb\n设 é − “x”"
    assert printable("\x1b[31mred\x7f\x85") == "\\x1b[31mred\\x7f\\x85"


@pytest.mark.parametrize("words", [["--help"], ["status", "--help"], ["plan"]])
def test_output_that_nobody_reads_ends_the_command_quietly(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "justrl", *words], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_every_help_works_without_docstrings():
    code = """
import contextlib, io, importlib, sys
from justrl.cli import main
for name in main.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main.main([name, "--help"])
    print(name, "usage" in out.getvalue())
import justrl.training.verl.guard, justrl.training.verl.nodes
for module, words in ((justrl.training.verl.guard, ["--help"]), (justrl.training.verl.nodes, ["--help"])):
    sys.argv = ["x", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        module.main()
    print(module.__name__, "usage" in out.getvalue())
"""
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if not line.endswith("True")]


def test_no_text_of_a_docstring_is_taken_for_granted():
    found = [
        path
        for folder in ("workflow", "docs")
        for path in (ROOT / folder).rglob("*.py")
        if "__doc__." in path.read_text()
    ]
    assert not found


def test_a_killed_command_has_written_its_last_line(tmp_path):
    code = (
        "import os, sys; from justrl.cli import terminal; terminal.open_streams();"
        "print('from step 2 to 6', file=sys.stderr); os.kill(os.getpid(), 9)"
    )
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", code], stderr=log, stdout=log, check=False)
    assert (tmp_path / "log").read_text() == "from step 2 to 6\n"
