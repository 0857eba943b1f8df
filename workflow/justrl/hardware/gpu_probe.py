"""Test torch and flash-attn on the GPUs here; prints one line of JSON: `python -m justrl.hardware.gpu_probe`.

It runs in a separate process, because a kernel for another GPU or driver can crash it.
"""

import argparse
import json


def probe(attention: bool) -> dict:
    """torch's version and CUDA, each GPU's name and compute capability, and the error, None if there was none."""
    import torch

    found: dict = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": [], "error": None, "attention": None}
    try:
        torch.cuda.init()
        for index in range(torch.cuda.device_count()):
            square = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.bfloat16)
            if (square @ square).sum().item() != 64**3:
                found["error"] = f"GPU {index}: a product of ones is wrong"
            major, minor = torch.cuda.get_device_capability(index)
            found["gpus"].append([torch.cuda.get_device_name(index), f"{major}.{minor}"])
        if attention:
            found["attention"] = attention_error()
    except Exception as error:
        found["error"] = str(error).strip().splitlines()[0]
    return found


def attention_error() -> str | None:
    """The error of flash-attn, forward and backward, on two packed sequences; None if it agrees with torch."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    try:
        from flash_attn import flash_attn_varlen_func

        torch.manual_seed(0)
        lengths = (100, 156)
        ends = torch.tensor([0, 100, 256], device="cuda", dtype=torch.int32)
        # Heads, groups and head width of the paper's models.
        query = torch.randn(256, 12, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        key, value = torch.randn(2, 256, 2, 128, device="cuda", dtype=torch.bfloat16)
        ours = flash_attn_varlen_func(query, key, value, ends, ends, 156, 156, causal=True)
        (ours_gradient,) = torch.autograd.grad(ours.float().sum(), query)
        whole = [x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)]
        sequences = zip(*whole, strict=True)
        parts = [scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True) for q, k, v in sequences]
        theirs = torch.cat(parts, dim=1).transpose(0, 1)
        (gradient,) = torch.autograd.grad(theirs.float().sum(), query)
        apart = max((ours - theirs).abs().max().item(), (ours_gradient - gradient).abs().max().item())
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None if apart < 0.05 else f"differs from torch's attention by {apart:.3g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="gpu_probe", description=__doc__)
    parser.add_argument("--attention", action="store_true", help="compare flash-attn with torch's attention as well")
    print(json.dumps(probe(parser.parse_args().attention)))
