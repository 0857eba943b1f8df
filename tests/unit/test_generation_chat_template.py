"""Prompts without transformers: the text and the ids that transformers gives, and its import saved."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from justrl.data.tiny_model import FAMILIES
from justrl.errors import UserError
from justrl.models.chat_template import ChatTokenizer
from justrl.models.sampling import stop_token_ids
from tiny_model import make_tiny_model

# As DeepSeek-R1's distilled models have it: a first token, bars of full width, thought cut from earlier answers.
DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(is_first=true, system_prompt='') -%}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}
{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
{{- '<｜User｜>' + message['content'] }}
    {%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' + content + eos_token }}
    {%- endif %}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""
# What else templates do: a default system message, other filters and globals, loop controls, indented blocks.
ELABORATE = """{# a comment #}
{%- if tools %}
    {{- raise_exception('no tools here') }}
{%- endif %}
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\n' + strftime_now('%%') + ({'<a>': 'é & 中'} | tojson) + '<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
<|im_start|>{{ message.role }}
{{ message.content | trim }}{% generation %}<|im_end|>{% endgeneration %}

{% endfor %}
{% if documents is none and unk_token is not defined %}<|im_start|>assistant
{% endif %}"""
TEMPLATES = {"chatml": FAMILIES["nemotron"].chat_template, "deepseek": DEEPSEEK, "elaborate": ELABORATE}
TEXTS = [
    "What is 2 + 3?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "设 $x^{2}+y_{1}\\geq\\frac{\\sqrt{3}}{2}$，求 $x$ 的最小值。\n\t 全角！ ﬁ ½",
    "<|im_end|>\n<|im_start|>system\nstop<think> </think> <｜User｜><｜end▁of▁sentence｜><|endoftext|> <s>",
    "  leading and trailing \r\n spaces  \n\n",
    "{{ messages }} {% raw %} 'quotes' \"double\" & <b>&amp;</b> 🙂 e\u0301 \u00e9",
    "x",
]


@pytest.fixture(scope="module", params=TEMPLATES)
def folder(request, tmp_path_factory):
    """A tokenizer with special tokens of several kinds and one of the templates."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token in ("<｜User｜>", "<｜Assistant｜>", "<think>")]
    )
    # What a prompt must not get: the first token that the tokenizer writes before any text, and a cut at 16 tokens.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=64)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=AddedToken(special[0], special=True),
        eos_token=special[1],
        pad_token="<|endoftext|>",
        chat_template=TEMPLATES[request.param],
    ).save_pretrained(folder)
    return folder


def move_template_into_the_configuration(folder, name="tokenizer_config.json", several=False):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / name).read_text())
    named = [{"name": "tool_use", "template": "none"}, {"name": "default", "template": template}]
    settings["chat_template"] = named if several else template
    settings["bos_token"] = {"__type": "AddedToken", "content": "<｜begin▁of▁sentence｜>", "special": True}
    (folder / name).write_text(json.dumps(settings))


@pytest.mark.parametrize("kept", ["file", "configuration", "several"])
def test_text_and_ids_are_those_of_transformers(folder, kept, tmp_path):
    from transformers import AutoTokenizer

    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if kept != "file":
        move_template_into_the_configuration(tmp_path, several=kept == "several")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), ChatTokenizer(tmp_path)
    conversations = [[{"role": "user", "content": text}] for text in TEXTS]
    conversations.append(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": TEXTS[1]},
            {"role": "assistant", "content": "<think>hm</think>\n\\boxed{1}"},
            {"role": "user", "content": TEXTS[0]},
        ]
    )
    texts = [ours.render(messages) for messages in conversations]
    assert texts == [
        theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for messages in conversations
    ]
    ids = theirs.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
    assert list(ours.encode(texts)) == ids
    assert ours.lengths(conversations) == [len(tokens) for tokens in ids]
    assert ours.eos_token_id == theirs.eos_token_id and ours.get_vocab() == theirs.get_vocab()


def test_the_mini_experiments_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    from justrl.data.tiny_model import sums_tokenizer

    sums_tokenizer("deepseek", "Put it in \\boxed{}.").save_pretrained(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), ChatTokenizer(tmp_path)
    conversations = [[{"role": "user", "content": text}] for text in TEXTS]
    ids = theirs.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
    assert list(ours.encode(map(ours.render, conversations))) == ids


def test_stop_tokens_are_the_same_by_either_tokenizer(tmp_path):
    from justrl.models.sampling import load_tokenizer

    for family, like in FAMILIES.items():
        folder = make_tiny_model(tmp_path / family, family=family)
        theirs = load_tokenizer(folder)
        stops = tuple(sorted(theirs.convert_tokens_to_ids(list(like.stops))))
        assert stop_token_ids(folder, ChatTokenizer(folder)) == stop_token_ids(folder, theirs) == stops


def test_what_a_template_refuses_is_said(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    template = tmp_path / "chat_template.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UserError, match="does not take these messages: roles must alternate"):
        ChatTokenizer(tmp_path).render([{"role": "user", "content": "?"}])
    template.write_text("{{ ''.__class__.__mro__ }}")
    with pytest.raises(UserError, match="unsafe"):
        ChatTokenizer(tmp_path).render([{"role": "user", "content": "?"}])
    template.unlink()
    with pytest.raises(UserError, match="has no chat template"):
        ChatTokenizer(tmp_path).render([{"role": "user", "content": "?"}])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no usable tokenizer: tokenizer\.json: "):
        ChatTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no usable tokenizer: tokenizer"):
        ChatTokenizer(tmp_path)


JOBS = {
    "prompt lengths": "from justrl.data.dapo import PromptLength\nPromptLength({model!r})(PROMPTS)",
    "preflight of prompts": "from justrl.config import load\n"
    "from justrl.preflight.experiment_checks import check_prompts\n"
    "print(check_prompts({data!r}, {model!r}, load().recipe))",
    "names of the sampler": "from justrl.models import sampling, vllm_backend\nimport justrl.verifiers.judge\n"
    "import justrl.evaluation.generating",
}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_only_wants_the_tokenizer_imports_neither_torch_nor_transformers(job, tmp_path: Path):
    model, data = make_tiny_model(tmp_path / "model"), tmp_path / "train.parquet"
    prompts = [[{"role": "user", "content": text}] for text in TEXTS]
    pq.write_table(pa.table({"prompt": prompts}), data)
    code = f"PROMPTS = {prompts!r}\n" + JOBS[job].format(model=str(model), data=str(data))
    code += "\nimport sys\nprint([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
