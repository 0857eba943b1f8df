"""What `bench/gpu.py` measures, at a size that any machine can do."""

import json

import pytest


@pytest.fixture(scope="module")
def gpu(root):
    """The bench as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("bench_gpu", root / "bench/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flops_are_those_that_torch_counts(gpu):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shape, device = gpu.SHAPES["tiny"], gpu.Device("cpu")
    model = gpu.make_model(shape, device, longest=64)
    lengths = [40, 17]
    counter = FlopCounterMode(display=False)
    with counter:
        for length in lengths:
            model(input_ids=torch.zeros(1, length, dtype=torch.long)).logits.sum().backward()
    # torch counts all pairs of tokens, not only those that see one another.
    assert gpu.update_flops(shape, lengths) == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_lengths_are_ragged_and_make_up_the_tokens(gpu):
    lengths = gpu.ragged(16_384, 8)
    assert sum(lengths) == 16_384 and len(lengths) == 8 and max(lengths) > 2 * min(lengths)


@pytest.fixture
def printed(gpu, monkeypatch, capsys):
    """What the bench prints, given these words."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["gpu.py", *words])
        gpu.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_each_part_is_measured_or_says_why_not(printed):
    made = printed("--shape", "tiny", "--tokens", "256", "--rows", "3", "--new-tokens", "4")
    assert made["update"]["tokens"] == 256 and made["update"]["tokens_per_second"] > 0
    assert made["packing"]["difference"] < 1e-4 and made["packing"]["places"] > made["packing"]["tokens"]
    assert made["decode"]["tokens_per_second"] > 0
    kernels = made["kernels"]
    assert kernels["ours"]["relative_difference"] < 1e-5
    for name in ("liger", "cut_cross_entropy", "trl"):
        assert "relative_difference" in kernels[name] or "why_not" in kernels[name]


def test_the_large_shape_is_refused_without_a_gpu(printed):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit, match="--shape tiny"):
        printed()
