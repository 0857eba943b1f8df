"""The transformers backend: what it samples, and that nothing but a request's own seed decides it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from justrl.errors import UserError
from justrl.models import load_backend, transformers_backend
from justrl.models.sampling import (
    Sampling,
    SamplingRequest,
    check_model_length,
    load_tokenizer,
    model_length,
    require_backend,
    stop_token_ids,
)
from tiny_model import make_tiny_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(model_dir):
    return load_tokenizer(model_dir)


@pytest.fixture(scope="module")
def backend(model_dir):
    # In double precision, so that a straddled random number cannot make a test fail once in a while.
    return load_backend("transformers", model_dir, dtype="float64")


def some_requests(tokenizer, count, sampling):
    """Requests with prompts of very different lengths."""
    return [
        SamplingRequest(f"r{i}", tokenizer.encode(f"What is {i} + {i}?" * (1 + i % 6)), 2**62 + i, sampling)
        for i in range(count)
    ]


def run(backend, requests, batch_size):
    backend.batch_size = batch_size
    answers = list(backend.generate(requests))
    assert sorted(answer.id for answer in answers) == sorted(request.id for request in requests)
    return {answer.id: answer for answer in answers}


def test_batch_size_and_order_do_not_change_what_is_sampled(backend, tokenizer):
    # Extra stop tokens, so that rows leave the batch at many different steps.
    requests = some_requests(tokenizer, 40, Sampling(1.0, 0.95, -1, 24, (2, *range(60, 75))))
    reference = run(backend, requests, 40)
    lengths = {answer.token_count for answer in reference.values()}
    assert len(lengths) > 8 and {answer.finish_reason for answer in reference.values()} == {"stop", "length"}
    for batch_size, order in ((1, 1), (7, -1), (16, 1)):
        assert run(backend, requests[::order], batch_size) == reference


def test_a_subset_of_the_requests_gets_the_same_answers(backend, tokenizer):
    requests = some_requests(tokenizer, 20, Sampling(0.7, 0.9, 50, 16, (2,)))
    reference = run(backend, requests, 20)
    assert run(backend, requests[3::4], 20) == {request.id: reference[request.id] for request in requests[3::4]}


def test_where_the_memory_runs_out_the_batch_is_halved_and_no_answer_changes(backend, tokenizer):
    prompt = tokenizer.encode("What is it?")
    sampling = Sampling(1.0, 0.95, -1, 24, (2, *range(60, 75)), log_probs=True)
    requests = [SamplingRequest(f"r{i}", prompt, i, sampling) for i in range(20)]
    reference = run(backend, requests, 20)
    # Some answers have ended, and are given out, before more than five rows of this length are too many.
    limit = len(prompt) + 8
    assert any(answer.token_count < 8 for answer in reference.values())

    def too_many(_model, _arguments, options):
        rows, length = options["attention_mask"].shape
        if rows > 5 and length > limit:
            raise torch.cuda.OutOfMemoryError("out of memory")

    hook = backend.model.register_forward_pre_hook(too_many, with_kwargs=True)
    try:
        halved = run(backend, requests, 20)
    finally:
        hook.remove()
    assert backend.batch_size <= 5
    assert {name: answer.token_ids for name, answer in halved.items()} == {
        name: answer.token_ids for name, answer in reference.items()
    }
    for name, answer in halved.items():
        assert answer.log_probs == pytest.approx(reference[name].log_probs)


def test_a_batch_on_a_cpu_keeps_no_more_than_it_may_and_pads_little(backend, tokenizer, monkeypatch):
    """What a CPU's memory does not hold ends the process, and what is prefilled together is as long as its longest."""
    requests = some_requests(tokenizer, 60, Sampling(1.0, 0.95, -1, 8, (2,)))
    expected = run(backend, requests, 60)
    config, weights = backend.model.config, sum(weight.nbytes for weight in backend.model.parameters())
    heads = config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * heads * backend.model.dtype.itemsize
    kept, prefilled = [], []

    def look(_, args, options):
        kept.append(options["attention_mask"].numel() * per_token)
        prefilled.append(options["input_ids"].numel() if options["input_ids"].shape[1] > 1 else 0)

    everything = 60 * max(len(request.prompt_token_ids) + 8 for request in requests) * per_token
    assert weights < everything / 2
    monkeypatch.setattr(transformers_backend, "_CPU_CACHE_BYTES", 0)
    hook = backend.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        assert run(backend, requests, None) == expected
    finally:
        hook.remove()
    assert max(kept) <= weights
    assert sum(prefilled) <= 1.3 * sum(len(request.prompt_token_ids) for request in requests)


def test_a_model_whose_cache_has_another_form_is_sampled_from_too(tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=256))
    backend = transformers_backend.TransformersBackend(model.eval(), tokenizer)
    requests = some_requests(tokenizer, 6, Sampling(1.0, 1.0, -1, 4, (2,)))
    assert run(backend, requests, None).keys() == {request.id for request in requests}


def test_greedy_is_what_transformers_generates_greedily(backend, tokenizer):
    stops = (2, 70, 71, 72)
    requests = some_requests(tokenizer, 8, Sampling(0.0, 1.0, -1, 20, stops))
    answers = run(backend, requests, 8)
    for request in requests:
        prompt = torch.tensor([request.prompt_token_ids])
        expected = backend.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=list(stops),
            pad_token_id=0,
        )[0, prompt.shape[1] :].tolist()
        answer = answers[request.id]
        assert list(answer.token_ids) == expected
        assert answer.finish_reason == ("stop" if expected[-1] in stops else "length")
        assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, -1), (0.7, 0.9, 60)])
def test_tokens_are_drawn_with_the_models_probabilities(backend, tokenizer, temperature, top_p, top_k):
    from scipy.stats import chisquare
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    prompt = tokenizer.encode("What is the sum of it?")
    sampling = Sampling(temperature, top_p, top_k, 1, (2,))
    draws = 2000
    backend.batch_size = 500
    requests = [SamplingRequest(str(i), prompt, 7_000_000 + i, sampling) for i in range(draws)]
    counts = Counter(answer.token_ids[0] for answer in backend.generate(requests))
    with torch.no_grad():
        scores = backend.model(torch.tensor([prompt])).logits[:, -1]
    warpers = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    warpers += [TopKLogitsWarper(top_k)] if top_k > 0 else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    for warper in warpers:
        scores = warper(None, scores)
    probabilities = scores.softmax(dim=-1)[0].numpy()
    assert all(probabilities[token] > 0 for token in counts)
    frequent = probabilities * draws >= 5
    observed = [*(counts[token] for token in np.flatnonzero(frequent)), 0]
    expected = [*(probabilities[frequent] * draws), probabilities[~frequent].sum() * draws]
    observed[-1] = draws - sum(observed)
    if expected[-1] < 1e-6:
        observed, expected = observed[:-1], expected[:-1]
    assert len(expected) > 5
    assert chisquare(observed, expected).pvalue > 1e-3


@settings(max_examples=60)
@given(
    # Far enough apart that a tie is a tie on either side of the comparison.
    st.lists(st.integers(-40, 40).map(lambda tenths: tenths / 5), min_size=2, max_size=12),
    st.floats(0.1, 3),
    st.floats(0.01, 1),
    st.one_of(st.just(-1), st.integers(1, 14)),
    st.sampled_from([np.float32, np.float64]),
)
def test_filters_keep_the_smallest_set_that_makes_up_top_p_and_its_ties(logits, temperature, top_p, top_k, dtype):
    from justrl.models.transformers_backend import filter_probabilities

    weights = np.exp((np.array(logits) - max(logits)) / temperature)
    probabilities = (weights / weights.sum()).astype(dtype)
    found = filter_probabilities(torch.from_numpy(probabilities)[None], [top_p], [top_k])[0].numpy()
    left = probabilities.astype(float)
    order = np.argsort(-left, kind="stable")
    left[left < (left[order[min(top_k, len(logits)) - 1]] if top_k > 0 else 0.0)] = 0
    before = (np.cumsum(left[order]) - left[order]) / left.sum()
    if 0 < np.abs(before[1:] - top_p).min() < 1e-9:
        return  # rounding decides whether top_p was reached
    allowed = {value for value, mass in zip(left[order], before, strict=True) if (mass < top_p or top_p == 1) and value}
    assert found.tolist() == [float(p) if p in allowed else 0.0 for p in probabilities.astype(float)]


def test_sampling_inverts_the_cumulative_distribution():
    from justrl.models.transformers_backend import invert_cumulative

    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).repeat(7, 1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999, 1 - 2**-53], dtype=torch.float64)
    assert invert_cumulative(probabilities, uniforms).tolist() == [1, 1, 3, 3, 4, 4, 4]


class _Fixed:
    def __init__(self, value):
        self.value = value

    def uniform(self):
        return self.value


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=9), st.floats(0, 1, exclude_max=True))
def test_every_random_number_finds_a_token_that_is_left(logits, uniform):
    from justrl.models.transformers_backend import choose_tokens, filter_probabilities

    scores = torch.tensor([logits])
    [token], [log_prob] = choose_tokens(scores, [Sampling(1.0, 0.9, -1, 1, ())], [_Fixed(uniform)])
    assert filter_probabilities(scores.softmax(-1), [0.9], [-1])[0, token] > 0
    assert log_prob == pytest.approx(float(scores.log_softmax(-1)[0, token]), abs=1e-5)


def test_the_greatest_random_number_does_not_fall_off_the_end():
    from justrl.models.transformers_backend import choose_tokens

    scores = torch.tensor([[0.0, 0.0, 0.0, -200.0]])
    [token], _ = choose_tokens(scores, [Sampling(1.0, 0.9, -1, 1, ())], [_Fixed(1 - 2**-53)])
    assert token == 2


def test_the_random_numbers_of_a_seed_never_change():
    from justrl.models.transformers_backend import random_stream

    # An evaluation's seeds are integers, a training's are (seed, step, prompt, sample).
    assert random_stream(2**62 + 1).random(2).tolist() == [0.529784813774504, 0.013048271966439984]
    assert random_stream((42, 1, 3, 7)).random(2).tolist() == [0.5563751387234004, 0.8066148279643449]


def test_logits_that_are_not_finite_stop_the_generation():
    from justrl.models.transformers_backend import choose_tokens

    with pytest.raises(FloatingPointError, match="not finite"):
        choose_tokens(torch.tensor([[0.0, float("nan")]]), [Sampling(1.0, 1.0, -1, 1, ())], [_Fixed(0.5)])


def test_the_models_generation_config_gives_stop_tokens_and_nothing_else(tmp_path):
    from transformers import GenerationConfig

    folder = make_tiny_model(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    end_of_text, end_of_turn = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert stop_token_ids(folder, tokenizer) == (end_of_text, end_of_turn)
    prompt = tokenizer.encode("What is it?")
    request = SamplingRequest("r", prompt, 5, Sampling(1.0, 1.0, -1, 12, (end_of_turn,)))
    [before] = load_backend("transformers", folder).generate([request])
    GenerationConfig(
        eos_token_id=[0, 9], temperature=0.01, top_k=1, do_sample=True, repetition_penalty=5.0, max_length=3
    ).save_pretrained(folder)
    [after] = load_backend("transformers", folder).generate([request])
    assert after == before
    # The tokenizer's own end, those of the generation config, and the one of the chat template's turns.
    assert stop_token_ids(folder, tokenizer) == (0, 9, end_of_turn)


def test_a_model_too_short_is_refused_before_it_is_loaded(model_dir):
    assert model_length(model_dir) == 4096
    check_model_length(model_dir, 4096)
    with pytest.raises(UserError, match=r"holds 4,096 tokens.*needs 5,000: lower max_tokens by at least 904"):
        load_backend("transformers", model_dir, max_model_len=5000)


def test_rope_scaling_lengthens_a_model(tmp_path):
    import json

    folder = make_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 4096,
        "rope_theta": 10000.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert model_length(folder) == 16384


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "sglang"}, "backend 'sglang' is unknown"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"tensor_parallel_size": 2}, "one device"),
        ({"engine_options": {"enforce_eager": True}}, "engine options belong to vLLM"),
        ({"batch_size": -1}, "batch size must be at least 1, got -1"),
    ],
)
def test_what_the_backend_cannot_do_is_said(model_dir, options, said):
    with pytest.raises(UserError, match=said):
        load_backend(**{"name": "transformers", "model_dir": model_dir, **options})


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"it has no config.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such model folder:"):
        load_tokenizer(tmp_path / "nothing")


def test_where_vllm_is_absent_the_environment_that_has_it_is_named():
    import importlib.util

    if importlib.util.find_spec("vllm"):
        require_backend("vllm")
        return
    with pytest.raises(UserError, match=r"make gpu-env.*make verl-env"):
        require_backend("vllm")


def test_rows_of_one_prompt_are_sampled_as_each_on_its_own(backend, tokenizer):
    prompts = [tokenizer.encode(text) for text in ("What is 1 + 1?", "Find $x$ and the number of ways.")]
    requests = [
        SamplingRequest(str(i), prompts[i % 2], (5, i), Sampling(1.0, 1.0, -1, 8, (), log_probs=True)) for i in range(6)
    ]
    together, alone = run(backend, requests, 6), run(backend, requests, 1)
    for name, answer in together.items():
        assert answer.token_ids == alone[name].token_ids
        assert answer.log_probs == pytest.approx(alone[name].log_probs, abs=1e-9)


def test_a_cache_that_grows_beyond_its_room_holds_what_a_concatenated_one_does():
    from transformers import DynamicCache

    from justrl.models.transformers_backend import _RoomyLayer

    ours, theirs = _RoomyLayer(), DynamicCache()
    for number in range(3 * _RoomyLayer.ROOM):
        keys, values = torch.full((2, 1, 1, 4), float(number)), torch.full((2, 1, 1, 4), -float(number))
        held, wanted = ours.update(keys, values), theirs.update(keys, values, 0)
        assert all(map(torch.equal, held, wanted))
        if number == 40:  # a row leaves
            ours.batch_select_indices(torch.tensor([1, 0]))
            theirs.batch_select_indices(torch.tensor([1, 0]))


def test_query_heads_in_groups_attend_as_apart():
    from types import SimpleNamespace

    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from justrl.models.transformers_backend import _grouped_attention

    torch.manual_seed(0)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    query = torch.randn(2, 6, 1, 8, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 2, 5, 8, dtype=torch.float64)
    for mask in (None, torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()[:, None, None]):
        arguments = (module, query, keys, values, mask)
        ours = _grouped_attention(*arguments, scaling=0.3)[0]
        assert torch.allclose(ours, sdpa_attention_forward(*arguments, scaling=0.3)[0], atol=1e-12)


def test_a_model_has_its_own_attention_again_after_a_step(backend, tokenizer):
    before = backend.model.config._attn_implementation
    run(backend, some_requests(tokenizer, 2, Sampling(1.0, 1.0, -1, 3, ())), 2)
    assert backend.model.config._attn_implementation == before == "sdpa"
