"""Rollouts, evaluation and judge on one model folder: the same stop tokens, the same filters, the same draws."""

import json

import pytest

from justrl import config
from justrl.config import EvalProtocol
from justrl.evaluation.completions import read_completions
from justrl.evaluation.generating import GenerationJob, Question, generate
from justrl.models import load_backend
from justrl.models.sampling import Sampling, SamplingRequest, load_tokenizer
from justrl.training.reference.distributed import ProcessGroup
from justrl.training.reference.loop import TrainingLoop
from justrl.training.segment import Execution, SegmentRequest
from justrl.verifiers.judge import ModelGrader
from tiny_model import make_tiny_model

torch = pytest.importorskip("torch")

SHORT = {"max_prompt_length": 64, "max_response_length": 24, "top_p": 0.8, "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose tokenizer, generation_config, config and chat template each name another end of an answer."""
    torch.set_num_threads(1)
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")

    def change(name, **values):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    change("tokenizer_config.json", eos_token="<|endoftext|>")
    change("generation_config.json", eos_token_id=[70, 71])
    change("config.json", eos_token_id=72)
    return folder


@pytest.fixture(scope="module")
def loop(root, folder, tmp_path_factory):
    """A training run of the reference engine on the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    experiment = config.load([root / "mini/experiment.yaml"])
    work = tmp_path_factory.mktemp("training")
    row = {"prompt": [{"role": "user", "content": "What is it?"}], "reward_model": {"ground_truth": "1"}}
    pq.write_table(pa.Table.from_pylist([row] * 4), work / "train.parquet")
    request = SegmentRequest(
        run="tiny",
        engine="reference",
        recipe=experiment.recipe.model_copy(update=SHORT),
        seed=3,
        model_dir=folder,
        train_file=work / "train.parquet",
        start_step=0,
        to_step=1,
        work_dir=work / "work",
        model_out=work / "model",
        metrics_out=work / "metrics.jsonl",
        hardware=experiment.hardware,
        execution=Execution(threads=1),
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield TrainingLoop(request, ProcessGroup())
    torch.use_deterministic_algorithms(deterministic)


def evaluation_stops(folder, path):
    protocol = EvalProtocol(
        temperature=1.0, top_p=1.0, max_tokens=4, prompt_separator=" ", prompt_suffix="Box it.", samples=1
    )
    job = GenerationJob(
        model=str(folder),
        benchmark="toy",
        questions=[Question("q", "What is it?", "1")],
        protocol=protocol,
        output=path / "out.parquet",
        run="tiny",
        seed=1,
        backend="transformers",
    )
    return tuple(read_completions([generate(job)])[1]["stop_token_ids"])


def test_rollouts_evaluation_and_judge_stop_at_the_same_tokens(folder, loop, tmp_path):
    judge = ModelGrader(folder, backend="transformers", max_tokens=8)
    judge.load()
    # <|endoftext|> of the tokenizer, <|im_end|> of the chat template, those of generation_config and of config.json.
    own = loop.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    expected = tuple(sorted([*own, 70, 71, 72]))
    assert loop.backend.sampling.stop_token_ids == expected
    assert evaluation_stops(folder, tmp_path) == expected
    assert judge.stop_tokens == expected


def test_rollouts_draw_what_evaluation_draws(folder, loop):
    prompts = [loop.tokenizer.encode(f"What is {i} + {i}?") for i in range(12)]
    seeds = [(3, 1, i, 0) for i in range(12)]
    backend = load_backend("transformers", folder, dtype="float32")
    requests = [
        SamplingRequest(str(i), prompt, seed, loop.backend.sampling)
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    expected = sorted(backend.generate(requests), key=lambda answer: int(answer.id))
    assert loop.backend.generate(prompts, seeds) == expected
    assert {answer.finish_reason for answer in expected} == {"stop", "length"}


def tied_model(folder):
    """The folder's model with equal logits for four tokens, far above all others: 0.25 each."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.lm_head.bias = torch.nn.Parameter(torch.full((model.config.vocab_size,), -100.0))
        model.lm_head.bias[[80, 81, 82, 83]] = 0.0
    return model.eval()


def test_tokens_that_tie_at_the_edge_of_top_p_are_kept_in_rollouts_as_in_evaluation(folder):
    from justrl.models.transformers_backend import TransformersBackend
    from justrl.training.reference.rollout import TransformersRollouts

    model, tokenizer = tied_model(folder), load_tokenizer(folder)
    # Three tokens make up 0.6, and the fourth ties with the third.
    sampling = Sampling(1.0, 0.6, -1, 1, (2,), log_probs=True)
    prompt = tokenizer.encode("What is it?")
    rollouts = TransformersRollouts(model, tokenizer, sampling).generate([prompt] * 200, [(5, i) for i in range(200)])
    requests = [SamplingRequest(str(i), prompt, i, sampling) for i in range(200)]
    for answers in (rollouts, list(TransformersBackend(model, tokenizer, 128).generate(requests))):
        assert {answer.token_ids[0] for answer in answers} == {80, 81, 82, 83}
        # Of the unfiltered distribution: 1/4 each, whatever top_p leaves.
        assert all(answer.log_probs[0] == pytest.approx(torch.tensor(0.25).log().item()) for answer in answers)
