"""Where the two families of the paper's models take different paths: template, stops, `<think>`, BOS, decode, files.

The stand-ins have the files of DeepSeek-R1-Distill-Qwen-1.5B and of OpenMath-Nemotron-1.5B, but for their size.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
from hub_server import Hub, serve

from justrl.config import EvalProtocol
from justrl.data import tiny_model
from justrl.data.messages import DEFAULT_SUFFIX, build_messages
from justrl.errors import UserError
from justrl.evaluation.completions import read_completions
from justrl.evaluation.generating import GenerationJob, Question, generate
from justrl.models.chat_template import ChatTokenizer
from justrl.models.sampling import chat_prompt, copy_tokenizer, load_tokenizer, stop_token_ids
from justrl.preflight import experiment_checks
from justrl.verifiers import get_reward
from justrl.verifiers.judge import ModelGrader
from tiny_model import make_tiny_model

DEEPSEEK_PROMPT = "<｜begin▁of▁sentence｜><｜User｜>What is 1 + 1?<｜Assistant｜><think>\n"
NEMOTRON_PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
)
PROMPTS = {"deepseek": DEEPSEEK_PROMPT, "nemotron": NEMOTRON_PROMPT}
STOPS = {"deepseek": ["<｜end▁of▁sentence｜>"], "nemotron": ["<|endoftext|>", "<|im_end|>"]}


@pytest.fixture(scope="module", params=list(tiny_model.FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp(family) / "model", family=family)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_prompt_is_the_familys_by_either_tokenizer(family, folder, tokenizer):
    assert chat_prompt(tokenizer, "What is 1 + 1?") == PROMPTS[family]
    assert ChatTokenizer(folder).render([{"role": "user", "content": "What is 1 + 1?"}]) == PROMPTS[family]


def test_the_prompt_begins_once(family, folder, tokenizer):
    text = PROMPTS[family]
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == next(ChatTokenizer(folder).encode([text]))
    begins = ids.count(tokenizer.bos_token_id) if tokenizer.bos_token else 0
    # What reads the rendered prompt as plain text would add another.
    assert (begins, tokenizer.encode(text).count(tokenizer.bos_token_id)) == {"deepseek": (1, 2), "nemotron": (0, 0)}[
        family
    ]


def test_answers_end_at_the_familys_tokens(family, folder, tokenizer):
    assert sorted(tokenizer.convert_ids_to_tokens(stop_token_ids(folder, tokenizer))) == STOPS[family]
    assert (tokenizer.get_vocab().get("<|im_end|>") is None) == (family == "deepseek")


def test_decoding_drops_special_tokens_and_keeps_thoughts(family, tokenizer):
    end = STOPS[family][0]
    ids = tokenizer.encode(f"I add.\n</think>\n\n\\boxed{{2}}{end}", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "I add.\n</think>\n\n\\boxed{2}"
    # One token in the family that thinks in tokens, text in the other.
    assert (len(tokenizer.encode("</think>", add_special_tokens=False)) == 1) == (family == "deepseek")


def test_files_are_those_of_the_family(family, folder, tokenizer):
    config = json.loads((folder / "config.json").read_text())
    names = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["tie_word_embeddings"] == (family == "nemotron")
    assert config["vocab_size"] > len(tokenizer), "real vocabularies are padded"
    assert names["tokenizer_class"] == {"deepseek": "LlamaTokenizerFast", "nemotron": "Qwen2Tokenizer"}[family]
    assert names.get("add_bos_token", False) == (family == "deepseek")


def test_a_copied_tokenizer_is_the_same_byte_for_byte(folder, tmp_path):
    copy_tokenizer(folder, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_warm_started_solutions_are_graded_whatever_the_family_writes_around_them(family):
    reward, rng = get_reward("paper"), random.Random(3)
    answer = tiny_model.FAMILIES[family].answer
    assert reward(tiny_model.worked_solution(47, 85, rng, 0.0, answer), "132") == 1.0
    assert reward(tiny_model.glance_solution(47, 85, rng, answer), "132") == -1.0
    assert ("</think>" in answer) == (family == "deepseek")


def test_prompts_of_sums_are_short_and_answers_ragged(family):
    tokenizer, rng = tiny_model.sums_tokenizer(family, DEFAULT_SUFFIX), random.Random(0)
    messages = build_messages("What is 47 + 85?", DEFAULT_SUFFIX)
    assert len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)) <= 26
    answer = tiny_model.FAMILIES[family].answer
    long = tiny_model.worked_solution(547, 685, rng, 0.0, answer)
    short = tiny_model.glance_solution(47, 85, rng, answer)
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in (short, long)]
    assert 4 * lengths[0] < lengths[1] <= 47


def test_evaluation_asks_and_stops_as_the_family_does(family, folder, tokenizer, tmp_path):
    protocol = EvalProtocol(
        temperature=1.0, top_p=1.0, max_tokens=4, prompt_separator=" ", prompt_suffix="Box it.", samples=2
    )
    job = GenerationJob(
        model=str(folder), benchmark="toy", questions=[Question("q", "What is 1 + 1?", "2")], protocol=protocol,
        output=tmp_path / "out.parquet", run="tiny", seed=1, backend="transformers",
    )  # fmt: skip
    rows, settings = read_completions([generate(job)])
    assert set(rows["prompt"]) == {PROMPTS[family].replace("1 + 1?", "1 + 1? Box it.")}
    assert sorted(tokenizer.convert_ids_to_tokens(settings["stop_token_ids"])) == STOPS[family]


def test_a_judge_of_the_family_is_asked_in_its_template(family, folder, tokenizer):
    prompt = "Question: {question}\nGold: {gold_answer}\nAnswer: {llm_response}\nVerdict:"
    grader = ModelGrader(str(folder), backend="transformers", max_tokens=4, prompt=prompt, most_not_understood=1.0)
    grader.load()
    asked = tokenizer.decode(grader.prompt_tokens("so 2", "2", "What is 1 + 1?"))
    question = "Question: What is 1 + 1?\nGold: 2\nAnswer: so 2\nVerdict:"
    assert asked == PROMPTS[family].replace("What is 1 + 1?", question)
    assert sorted(tokenizer.convert_ids_to_tokens(grader.stop_tokens)) == STOPS[family]
    assert len(grader.grade_many([("so 2", "2", "What is 1 + 1?")])) == 1


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the model folder, and a function that changes one of its JSON files."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)

    def change(name, **values):
        path = copy / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return copy

    return change


def test_ids_are_those_of_tokenizer_json_whatever_transformers_would_build(broken):
    """Digits in threes, as DeepSeek-V3's own tokenizer takes them: transformers splits them singly for qwen2."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    folder = broken("config.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    state = json.loads(tokenizer.to_str())
    state["model"]["merges"].append(["1", "2"])
    state["model"]["vocab"]["12"] = len(state["model"]["vocab"])
    for token in state["added_tokens"]:
        token["id"] += 1
    for piece in (state.get("post_processor") or {}).get("special_tokens", {}).values():
        piece["ids"] = [i + 1 for i in piece["ids"]]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    digits = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert (
        load_tokenizer(folder).encode("121", add_special_tokens=False)
        == tokenizer.encode("121", add_special_tokens=False).ids
    )
    assert experiment_checks.check_model(folder, "reference").status == "ok"
    # verl would load the other.
    found = experiment_checks.check_model(folder, "verl")
    assert found.status == "failed"
    assert re.search(r"encodes '.*' as \[.*own tokenizer.json as \[.*Qwen2Tokenizer", found.found)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'] | upper }}{% if add_generation_prompt %}A:{% endif %}", "drops or changes"),
        ("{{ messages[0]['content'] }}", "does not open the assistant's turn"),
    ],
)
def test_a_template_that_does_not_ask_is_refused(broken, template, message):
    folder = broken("config.json")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=message):
        load_tokenizer(folder)


def test_a_prompt_that_begins_twice_is_refused(tmp_path):
    folder = make_tiny_model(tmp_path / "model", family="deepseek")
    path = folder / "chat_template.jinja"
    path.write_text("{{ bos_token }}" + path.read_text())
    with pytest.raises(UserError, match="begins with '<｜begin▁of▁sentence｜>' 2 times"):
        load_tokenizer(folder)


def test_a_stop_token_that_the_model_lacks_is_refused(broken):
    with pytest.raises(UserError, match="stop token 5000 is not in the model's vocabulary"):
        load_tokenizer(broken("generation_config.json", eos_token_id=5000))


@pytest.mark.parametrize(("template", "status"), [(None, 0), ("{{ messages[0]['content'] }}", 1)])
def test_a_tokenizer_of_the_hub_is_looked_at_as_one_of_a_folder_is(tmp_path, template, status):
    folder = make_tiny_model(tmp_path / "model", family="deepseek")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    if template:
        files["chat_template.jinja"] = template.encode()
    hub = Hub()
    hub.commit("models/owner/name", files)
    code = "from justrl.models.sampling import load_tokenizer; load_tokenizer('owner/name')"
    with serve(hub):
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == status, done.stderr
    assert ("does not open the assistant's turn" in done.stderr) == bool(status)
