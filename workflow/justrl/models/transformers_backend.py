"""Generation with transformers: one process, CPU or one GPU, continuous batching over a left-padded KV cache.

A finished row makes room for a new one. The random number of a row's t-th token depends only on the row's seed and t.
The token is found by inverting the cumulative distribution in vocabulary order, which is continuous in the logits. So
the size and content of the batch change an answer only if a rounding error of the logits straddles a random number or a
filter's edge.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, Cache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging as transformers_logging

from justrl.errors import UserError
from justrl.models.sampling import Completed, Sampling, SamplingRequest, load_tokenizer
from justrl.models.shape import shape_in

_RANDOM_BLOCK = 64
# Limit on attention mask entries of one prefill, rows x length x length: 16 MiB per byte of the mask's type.
_MASK_ENTRIES = 2**24
# Limit on a batch's keys and values on a CPU, where running out of memory ends the process; or the size of the weights,
# if larger. For a tiny model, more would be slower, because the kernel clears each page of a new tensor. A GPU raises
# an error instead.
_CPU_CACHE_BYTES = 2**28
# Parameters x tokens of a forward pass below which its operations are too short for several threads, which would wait
# for each other longer than they compute.
_WORTH_SHARING = 2**29


class TransformersBackend:
    """Decodes with a causal language model of transformers, using its weights at the time of the call.

    Args:
        model: in evaluation mode; computation uses its device and dtype.
        tokenizer: decodes the answers.
        batch_size: maximum number of rows decoded together. None: all at once, but on a CPU as many as
            `_CPU_CACHE_BYTES` allow (unless the cache size of the model's architecture is unknown).
    """

    name = "transformers"

    def __init__(self, model, tokenizer, batch_size: int | None = None):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.device = model.device
        shape = shape_in(model.config.get_text_config().to_dict())
        self._token_bytes = shape.cache_bytes * model.dtype.itemsize // 2 if shape else 0  # 0: unknown
        self._weight_bytes = sum(weight.nbytes for weight in model.parameters())
        self.environment = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
        }

    @classmethod
    def load(cls, model_dir: str | Path, revision: str | None, dtype: str, batch_size: int) -> "TransformersBackend":
        """Load a model and its tokenizer, onto the GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        transformers_logging.disable_progress_bar()
        tokenizer = load_tokenizer(model_dir, revision)
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            str(model_dir),
            dtype=resolve_dtype(dtype, device),
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
        )
        return cls(model.to(device).eval(), tokenizer, batch_size)

    # Not inference_mode: tensors that a model keeps from a pass must stay usable if the model is trained afterwards.
    @torch.no_grad()
    def generate(self, requests: Iterable[SamplingRequest]) -> Iterator[Completed]:
        """Yield every request's answer as it finishes. Requests with the longest prompts start first.

        Rows prefilled together are padded to their longest prompt, so similar lengths waste less. And if memory doesn't
        suffice, that shows at the start.
        """
        waiting = deque(sorted(requests, key=lambda request: -len(request.prompt_token_ids)))
        batch = _Batch(self.model, self.device)
        while waiting or batch.unfinished:
            rows = self._take(waiting, batch)
            try:
                ended = batch.add(rows) if rows else batch.step()
            except torch.cuda.OutOfMemoryError:
                again = [row.request for row in batch.rows + rows if not row.delivered]
                waiting.extendleft(reversed(again))
                batch = self._shrink(len(again))
                continue
            for row in ended:
                row.delivered = True
                yield self._completed(row)

    def close(self) -> None:
        """Release the model's memory."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _size(self, waiting: deque[SamplingRequest], batch: "_Batch") -> int:
        """Maximum number of rows to decode together now, at least one."""
        if self.batch_size or self.device.type != "cpu" or not waiting or not self._token_bytes:
            return self.batch_size or batch.unfinished + len(waiting)
        longest = max(len(waiting[0].prompt_token_ids) + waiting[0].sampling.max_tokens, batch.longest())
        fitting = max(_CPU_CACHE_BYTES, self._weight_bytes) // (self._token_bytes * longest)
        return max(1, min(fitting, batch.unfinished + len(waiting)))

    def _take(self, waiting: deque[SamplingRequest], batch: "_Batch") -> list["_Row"]:
        """Next rows to prefill, limited by the free slots and, except for the first row, by the mask's memory.

        Empty until a quarter of the batch, or room for all waiting rows, is free, because a prefill costs a full
        forward pass.
        """
        size = self._size(waiting, batch)
        free = size - batch.unfinished
        rows: list[_Row] = []
        longest = 0
        if 4 * free < min(size, 4 * len(waiting)):
            return rows
        while waiting and len(rows) < free:
            longest = max(longest, len(waiting[0].prompt_token_ids))
            if rows and (len(rows) + 1) * longest**2 > _MASK_ENTRIES:
                break
            rows.append(_Row(waiting.popleft()))
        return rows

    def _shrink(self, rows: int) -> "_Batch":
        """Halve the batch size after running out of GPU memory.

        Unfinished rows restart and, by their seeds, end the same.
        """
        size = min(rows, self.batch_size or rows)
        if size <= 1:
            raise UserError("the GPU's memory does not hold one sequence: lower max_tokens or use --backend vllm")
        self.batch_size = size // 2
        torch.cuda.empty_cache()
        return _Batch(self.model, self.device)

    def _completed(self, row: "_Row") -> Completed:
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        reason = "stop" if row.stopped else "length"
        return Completed(row.request.id, text, len(row.tokens), reason, tuple(row.tokens), tuple(row.log_probs))


def random_stream(seed: int | tuple[int, ...]) -> np.random.Generator:
    """The random numbers of one answer: Philox keyed by an integer, or PCG64 seeded with several (numpy's default)."""
    return np.random.Generator(np.random.Philox(key=seed)) if isinstance(seed, int) else np.random.default_rng(seed)


class _Row:
    """One answer that is being generated."""

    def __init__(self, request: SamplingRequest):
        self.request = request
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.stopped = self.finished = self.delivered = False
        self._stream = random_stream(request.seed)
        self._uniforms: list[float] = []

    def uniform(self) -> float:
        """The next random number in [0, 1); the t-th call always returns the same one."""
        if not self._uniforms:
            self._uniforms = self._stream.random(_RANDOM_BLOCK).tolist()[::-1]
        return self._uniforms.pop()

    def append(self, token: int, log_prob: float) -> None:
        sampling = self.request.sampling
        self.tokens.append(token)
        if sampling.log_probs:
            self.log_probs.append(log_prob)
        self.stopped = token in sampling.stop_token_ids
        self.finished = self.stopped or len(self.tokens) >= sampling.max_tokens


class _RoomyLayer(DynamicLayer):
    """One layer's keys and values, each [rows, heads, length, width], in buffers with spare capacity.

    A new tensor for each token would copy the whole cache each time.
    """

    ROOM = 32
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, config: Any = None):
        super().__init__(config)
        self._rooms: tuple[torch.Tensor, ...] = ()
        self._views: tuple[torch.Tensor, ...] = ()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append keys and values, and return all of them as views of the buffers."""
        length, new = self.get_seq_length(), key_states.shape[-2]
        if not length:
            return super().update(key_states, value_states, *args, **kwargs)
        # If rows left or joined, `keys` and `values` were replaced and the buffers are out of date.
        mine = len(self._views) == 2 and self._views[0] is self.keys and self._views[1] is self.values
        if not mine or length + new > self._rooms[0].shape[-2]:
            self._rooms = tuple(self._moved(old, length + new) for old in (self.keys, self.values))
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, length : length + new] = states
        self.keys, self.values = self._views = tuple(room[:, :, : length + new] for room in self._rooms)
        return self.keys, self.values

    def _moved(self, old: torch.Tensor, needed: int) -> torch.Tensor:
        """Copy keys or values into a buffer of length `needed + ROOM - 1`."""
        rows, heads, length, width = old.shape
        room = old.new_empty((rows, heads, needed + self.ROOM - 1, width))
        room[:, :, :length] = old
        return room


def _empty_cache() -> Cache:
    return Cache(layer_class_to_replicate=_RoomyLayer)


class _Batch:
    """Rows that are decoded together, their KV cache (left-padded) and its mask [rows, length].

    Removing finished rows copies the whole cache. So they are still decoded, and their tokens discarded, until new rows
    join or half of the rows are finished.
    """

    def __init__(self, model, device: torch.device):
        self.model = model
        self.device = device
        self.rows: list[_Row] = []
        self.unfinished = 0
        self.cache = _empty_cache()
        self.mask = torch.zeros((0, 0), dtype=torch.long, device=device)
        self.parameters = sum(weight.numel() for weight in model.parameters())

    def longest(self) -> int:
        """The maximum length in tokens that an unfinished row can reach."""
        requests = (row.request for row in self.rows if not row.finished)
        return max((len(request.prompt_token_ids) + request.sampling.max_tokens for request in requests), default=0)

    def add(self, rows: list[_Row]) -> list[_Row]:
        """Prefill new rows separately and join them to the batch. Returns those that ended with their first token.

        Rows with the same prompt share its forward pass up to the output layer.
        """
        places: dict[tuple[int, ...], int] = {}
        shared = [places.setdefault(tuple(row.request.prompt_token_ids), len(places)) for row in rows]
        longest = max(map(len, places))
        padding = [longest - len(prompt) for prompt in places]
        # Any id works as padding: the mask hides it.
        ids = [[0] * pad + list(prompt) for pad, prompt in zip(padding, places, strict=True)]
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=self.device)
        cache = _empty_cache()
        index = torch.tensor(shared, device=self.device) if len(places) < len(rows) else None
        ended = self._forward(rows, torch.tensor(ids, device=self.device), mask, cache, index)
        if index is not None:
            mask = mask[index]
            cache.batch_select_indices(index)
        self._remove_finished()
        self.unfinished += len(rows) - len(ended)
        if not self.rows:
            self.rows, self.cache, self.mask = rows, cache, mask
            return ended
        # Drop columns that are padding in all remaining rows, or the cache would grow without end.
        first = int(self.mask.any(dim=0).nonzero()[0])
        width = max(self.mask.shape[1] - first, longest)
        self.mask = torch.cat([_pad_left(self.mask[:, first:], width, 1), _pad_left(mask, width, 1)])
        layers: Iterable[tuple[Any, Any]] = zip(self.cache.layers, cache.layers, strict=True)
        for layer, new in layers:
            layer.keys = torch.cat([_pad_left(layer.keys[:, :, first:], width, 2), _pad_left(new.keys, width, 2)])
            layer.values = torch.cat([_pad_left(layer.values[:, :, first:], width, 2), _pad_left(new.values, width, 2)])
        self.rows = self.rows + rows
        return ended

    def step(self) -> list[_Row]:
        """Sample one more token for every row. Returns the rows that ended with it."""
        if 2 * self.unfinished <= len(self.rows):
            self._remove_finished()
        ids = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.device)
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=1)
        ended = self._forward(self.rows, ids, self.mask, self.cache)
        self.unfinished -= len(ended)
        return ended

    def _remove_finished(self) -> None:
        """Remove finished rows from the batch."""
        keep = [index for index, row in enumerate(self.rows) if not row.finished]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in keep]
        indices = torch.tensor(keep, dtype=torch.long, device=self.device)
        self.mask = self.mask[indices]
        self.cache.batch_select_indices(indices)

    def _forward(
        self,
        rows: list[_Row],
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: Cache,
        shared: torch.Tensor | None = None,
    ) -> list[_Row]:
        """Run the model on ids [rows, new], which extends the cache, and append the sampled token to each row.

        With `shared` [rows], the ids are distinct prompts, and `shared` has the index of each row's prompt. Returns the
        rows that ended.
        """
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        threads = 1 if self.parameters * ids.numel() < _WORTH_SHARING else torch.get_num_threads()
        with _repeated_before_head(self.model, shared), _decoding_in_groups(self.model), _threads(threads):
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        chosen = choose_tokens(output.logits[:, -1], [row.request.sampling for row in rows], rows)
        ended: list[_Row] = []
        for row, token, log_prob in zip(rows, *chosen, strict=True):
            if not row.finished:
                row.append(token, log_prob)
                if row.finished:
                    ended.append(row)
        return ended


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Context manager: set torch's intra-op thread count."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _repeated_before_head(model, index: torch.Tensor | None) -> Iterator[None]:
    """Context manager: select the rows `index` of the output layer's input (None: no change).

    So its matrix product has as many rows as without sharing. With fewer rows, another kernel may round differently.
    """
    if index is None:
        yield
        return
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, states: (states[0][index],))
    try:
        yield
    finally:
        hook.remove()


def _grouped_attention(module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask, *rest, **options):
    """Attention by torch's fused kernel; for a single new token, query heads share their keys and values.

    transformers copies each layer's whole cache for every token, once per query head that shares a key. Here, query
    heads that share a key become additional queries of it. The sums are the same, but their last bit may differ.
    """
    rows, heads, new, width = query.shape
    key_heads = key.shape[1]
    if new > 1 or heads == key_heads or rest:
        return sdpa_attention_forward(module, query, key, value, mask, *rest, **options)
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key_heads, heads // key_heads, width),
        key,
        value,
        attn_mask=mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    return output.reshape(rows, 1, heads, width), None


_GROUPED = "justrl_grouped"
ALL_ATTENTION_FUNCTIONS.register(_GROUPED, _grouped_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(_GROUPED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def _decoding_in_groups(model) -> Iterator[None]:
    """Context manager: let a model that uses torch's fused attention use `_grouped_attention`."""
    before = model.config._attn_implementation
    if before != "sdpa":
        yield
        return
    model.config._attn_implementation = _GROUPED
    try:
        yield
    finally:
        model.config._attn_implementation = before


def choose_tokens(
    logits: torch.Tensor, samplings: list[Sampling], rows: Iterable[_Row]
) -> tuple[list[int], list[float]]:
    """Sample the next token of each row of logits [rows, vocabulary].

    Also returns its log-probability before the filters. Greedy rows use no random number, and their tokens are certain:
    log-probability 0.

    Raises FloatingPointError: a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError("the model's logits are not finite: its weights are damaged or its dtype overflows")
    tokens, chances = [0] * len(samplings), [0.0] * len(samplings)
    drawn = [index for index, sampling in enumerate(samplings) if sampling.temperature > 0]
    if len(drawn) < len(samplings):
        tokens = logits.argmax(dim=-1).tolist()
    if not drawn:
        return tokens, chances
    rows = list(rows)
    scores = logits if len(drawn) == len(samplings) else logits[drawn]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    log_probs = (scores / scores.new_tensor([[samplings[i].temperature] for i in drawn])).log_softmax(dim=-1)
    probabilities = filter_probabilities(
        log_probs.exp(), [samplings[i].top_p for i in drawn], [samplings[i].top_k for i in drawn]
    )
    uniforms = torch.tensor([rows[i].uniform() for i in drawn], dtype=torch.float64, device=logits.device)
    found = invert_cumulative(probabilities, uniforms)
    found_log_probs = log_probs.gather(-1, found[:, None]).squeeze(-1)
    for index, token, log_prob in zip(drawn, found.tolist(), found_log_probs.tolist(), strict=True):
        tokens[index], chances[index] = token, log_prob
    return tokens, chances


def filter_probabilities(probabilities: torch.Tensor, top_p: list[float], top_k: list[int]) -> torch.Tensor:
    """Probabilities [rows, vocabulary] after top-k, then top-p of the rest; not renormalised.

    The order is vLLM's. Tokens that tie with the last kept one are kept, too, so sort order doesn't matter.
    """
    vocabulary = probabilities.shape[1]
    kept = [k if 0 < k < vocabulary else vocabulary for k in top_k]
    if min(kept) == vocabulary and min(top_p) >= 1:
        return probabilities
    ranked = probabilities.sort(dim=-1, descending=True).values
    if min(kept) < vocabulary:
        smallest = ranked.gather(1, torch.tensor(kept, device=ranked.device)[:, None] - 1)
        probabilities = probabilities.masked_fill(probabilities < smallest, 0.0)
        ranked = ranked.masked_fill(ranked < smallest, 0.0)
    if min(top_p) < 1:
        limit = torch.tensor(top_p, dtype=torch.float64, device=ranked.device)[:, None]
        cumulative = ranked.cumsum(dim=-1, dtype=torch.float64)
        # A token stays if the tokens before it sum to less than top_p, so at least one always stays.
        stays = (cumulative - ranked < limit * cumulative[:, -1:]) | (limit >= 1)
        last = ranked.masked_fill(~stays, 2.0).amin(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < last, 0.0)
    return probabilities


def invert_cumulative(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """For each row [rows, vocabulary], the token where the cumulative share exceeds `uniforms` [rows]."""
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may raise a number near 1 to the total, beyond the last token with any probability.
    points = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True).squeeze(1)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return a torch dtype by name; "auto" is float32 on a CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"dtype {name!r} is unknown: use auto, float32, bfloat16 or float16")
    return dtype


def _pad_left(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Pad a tensor with zeros on the left along `dim` to length `width`."""
    missing = width - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
