"""Generation with transformers: one process, CPU or one GPU, continuous batches over a left-padded KV cache.

A row leaves the batch when it ends and another takes its place, so no row waits for the longest. The random number of
a row's t-th token depends on the row's seed and t alone (a counter-based generator), and the token is found by
inverting the cumulative distribution in vocabulary order, which is continuous in the logits: a batch of another size
or make-up changes an answer only where a rounding error of the logits straddles a random number or a filter's edge.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging as transformers_logging

from justrl.errors import UserError
from justrl.evaluation.backends import Completed, Request, Sampling

_RANDOM_BLOCK = 64
# Entries of the attention mask of one prefill, rows x length x length: 64 MiB of them for each byte of its type.
_MASK_ENTRIES = 2**26


class TransformersBackend:
    """A causal language model of transformers; `batch_size` is the most rows decoded together."""

    name = "transformers"

    def __init__(self, model_dir: str | Path, *, revision: str | None, dtype: str, batch_size: int):
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {batch_size}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = resolve_dtype(dtype, self.device)
        self.batch_size = batch_size
        transformers_logging.disable_progress_bar()
        options = {"revision": revision, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(str(model_dir), **options)
        self.model = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=self.dtype, **options)
        self.model.to(self.device).eval()
        self.environment = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
        }

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Completed]:
        """Yield every request's answer as it finishes."""
        waiting = deque(requests)
        batch = _Batch(self.model, self.device)
        while waiting or batch.rows:
            # Prefilling a few rows at a time would cost a forward pass each; a quarter of the batch is worth one.
            ready = waiting and len(batch.rows) <= self.batch_size * 3 // 4
            rows = self._take(waiting, self.batch_size - len(batch.rows)) if ready else []
            try:
                if rows:
                    batch.add(rows)
                else:
                    batch.step()
            except torch.cuda.OutOfMemoryError:
                waiting.extendleft(reversed([row.request for row in batch.rows + rows]))
                batch = self._shrink()
                continue
            for row in batch.remove_finished():
                yield self._completed(row)

    def close(self) -> None:
        """Give the model's memory back."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @staticmethod
    def _take(waiting: deque[Request], free: int) -> list["_Row"]:
        """The next rows to prefill: no more than are free, nor than the mask's memory allows, but at least one."""
        rows, longest = [], 0
        while waiting and len(rows) < free:
            longest = max(longest, len(waiting[0].prompt_token_ids))
            if rows and (len(rows) + 1) * longest**2 > _MASK_ENTRIES:
                break
            rows.append(_Row(waiting.popleft()))
        return rows

    def _shrink(self) -> "_Batch":
        """Halve the batch after the memory ran out; its rows start again and, with their own seeds, end the same."""
        if self.batch_size == 1:
            raise UserError("the GPU's memory does not hold one sequence: lower max_tokens or use --backend vllm")
        self.batch_size //= 2
        torch.cuda.empty_cache()
        return _Batch(self.model, self.device)

    def _completed(self, row: "_Row") -> Completed:
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        reason = "stop" if row.stopped else "length"
        return Completed(row.request.id, text, len(row.tokens), reason, tuple(row.tokens))


class _Row:
    """One answer being written."""

    def __init__(self, request: Request):
        self.request = request
        self.tokens: list[int] = []
        self.stopped = False
        self._generator = np.random.Generator(np.random.Philox(key=request.seed))
        self._uniforms: Iterator[float] = iter(())

    def uniform(self) -> float:
        """The next random number in [0, 1): the t-th call always gives the same one."""
        for value in self._uniforms:
            return value
        self._uniforms = iter(self._generator.random(_RANDOM_BLOCK))
        return next(self._uniforms)

    def append(self, token: int) -> None:
        self.tokens.append(token)
        self.stopped = token in self.request.sampling.stop_token_ids

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.tokens) >= self.request.sampling.max_tokens


class _Batch:
    """Rows that are decoded together, their KV cache (left-padded) and its mask [rows, length]."""

    def __init__(self, model, device: torch.device):
        self.model = model
        self.device = device
        self.rows: list[_Row] = []
        self.cache = DynamicCache()
        self.mask = torch.zeros((0, 0), dtype=torch.long, device=device)

    def add(self, rows: list[_Row]) -> None:
        """Prefill new rows on their own, choose their first tokens, and join their cache to the batch's."""
        longest = max(len(row.request.prompt_token_ids) for row in rows)
        padding = [longest - len(row.request.prompt_token_ids) for row in rows]
        # Any id will do as padding: the mask hides it.
        ids = [[0] * pad + list(row.request.prompt_token_ids) for pad, row in zip(padding, rows, strict=True)]
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=self.device)
        cache = DynamicCache()
        self._forward(rows, torch.tensor(ids, device=self.device), mask, cache)
        if not self.rows:
            self.rows, self.cache, self.mask = rows, cache, mask
            return
        width = max(self.mask.shape[1], longest)
        self.mask = torch.cat([_pad_left(self.mask, width, 1), _pad_left(mask, width, 1)])
        for layer, new in zip(self.cache.layers, cache.layers, strict=True):
            layer.keys = torch.cat([_pad_left(layer.keys, width, 2), _pad_left(new.keys, width, 2)])
            layer.values = torch.cat([_pad_left(layer.values, width, 2), _pad_left(new.values, width, 2)])
        self.rows = self.rows + rows

    def step(self) -> None:
        """Choose one more token for every row."""
        ids = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.device)
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=1)
        self._forward(self.rows, ids, self.mask, self.cache)

    def remove_finished(self) -> list[_Row]:
        """Take the finished rows out, and the columns that were padding for all that stay."""
        finished = [row for row in self.rows if row.finished]
        if not finished:
            return finished
        keep = [index for index, row in enumerate(self.rows) if not row.finished]
        self.rows = [self.rows[index] for index in keep]
        if not keep:
            self.cache, self.mask = DynamicCache(), self.mask[:0, :0]
            return finished
        self.mask = self.mask[keep]
        first = int(self.mask.any(dim=0).nonzero()[0])
        self.mask = self.mask[:, first:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[keep, :, first:], layer.values[keep, :, first:]
        return finished

    def _forward(self, rows: list[_Row], ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> None:
        """Run the model on ids [rows, new], which lengthens the cache, and append the chosen token to each row."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = choose_tokens(output.logits[:, -1], [row.request.sampling for row in rows], rows)
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)


def choose_tokens(logits: torch.Tensor, samplings: list[Sampling], rows: Iterable[_Row]) -> list[int]:
    """The next token of each row of logits [rows, vocabulary]; greedy rows draw no random number."""
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError("the model's logits are not finite: its weights are damaged or its dtype overflows")
    greedy = logits.argmax(dim=-1).tolist()
    drawn = [index for index, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not drawn:
        return greedy
    rows = list(rows)
    settings = [(samplings[i].temperature, samplings[i].top_p, samplings[i].top_k) for i in drawn]
    probabilities = filtered_probabilities(logits[drawn], *map(list, zip(*settings, strict=True)))
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    uniforms = torch.tensor([[rows[i].uniform()] for i in drawn], dtype=torch.float64, device=logits.device)
    # Rounding may carry a number near 1 up to the total, past the last token that has any probability.
    points = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    chosen = torch.searchsorted(cumulative, points, right=True).squeeze(1).tolist()
    for index, token in zip(drawn, chosen, strict=True):
        greedy[index] = token
    return greedy


def filtered_probabilities(
    logits: torch.Tensor, temperature: list[float], top_p: list[float], top_k: list[int]
) -> torch.Tensor:
    """Probabilities (float64, not renormalised) [rows, vocabulary] after temperature, then top-k, then top-p.

    The order is vLLM's. Tokens that tie with the last one kept are kept too, so no sort order decides.
    """
    device = logits.device
    scaled = logits.double() / torch.tensor(temperature, dtype=torch.float64, device=device).unsqueeze(1)
    vocabulary = logits.shape[1]
    if any(0 < k < vocabulary for k in top_k):
        kept = torch.tensor([k if 0 < k < vocabulary else vocabulary for k in top_k], device=device)
        ranked = scaled.sort(dim=-1, descending=True).values
        scaled = scaled.masked_fill(scaled < ranked.gather(1, kept.unsqueeze(1) - 1), -torch.inf)
    probabilities = scaled.softmax(dim=-1)
    if any(p < 1 for p in top_p):
        limit = torch.tensor(top_p, dtype=torch.float64, device=device).unsqueeze(1)
        ranked = probabilities.sort(dim=-1, descending=True).values
        # A token stays if those before it do not yet make up top_p, so at least one always does.
        stays = (ranked.cumsum(dim=-1) - ranked < limit) | (limit >= 1)
        last = ranked.masked_fill(~stays, 2.0).amin(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < last, 0.0)
    return probabilities


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """A torch dtype by name; "auto" is float32 on a CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"dtype {name!r} is unknown: use auto, float32, bfloat16 or float16")
    return dtype


def _pad_left(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Zeros before a tensor along `dim` until it is `width` long."""
    missing = width - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
