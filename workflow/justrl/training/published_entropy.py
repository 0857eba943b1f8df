"""The entropy that the authors' code would have logged for a step, which differs from the true entropy.

Their `dp_actor.compute_log_prob` splits a rank's sequences into micro-batches by number of tokens. It restores the
original order of the log-probabilities but not of the entropies (fixed upstream in verl PR 1943). `ray_trainer` then
averages the entropies in one order under the response masks of the other. A token is counted only if it is within the
length of both its own sequence and the sequence whose mask is applied. This affects metrics only, not their loss.
"""

import heapq
from collections.abc import Callable, Sequence
from itertools import chain
from math import ceil

# The authors' script: 4 nodes of 8 GPUs, dynamic batches of ppo_max_token_len_per_gpu.
RANKS, MICRO_BATCH_TOKENS = 32, 32_768


def entropy_as_published(
    sequence_lengths: Sequence[int],
    response_lengths: Sequence[int],
    entropy_sum: Callable[[int, int], float],
    ranks: int = RANKS,
    micro_batch_tokens: int = MICRO_BATCH_TOKENS,
) -> float:
    """Return the entropy in nats per token that the authors' code logs, computed exactly from this step's data.

    Args:
        sequence_lengths: tokens of prompt and response of each trajectory, in the order of prompts and samples.
        response_lengths: tokens of each response.
        entropy_sum: function of a trajectory's index and n: the sum of the entropies of its first n response tokens.
        ranks: GPUs among which the trajectories are divided; 1 is used if they do not divide evenly.
        micro_batch_tokens: maximum tokens of a micro-batch on one GPU.
    """
    total = 0.0
    for source, mask in mismatched_pairs(sequence_lengths, ranks, micro_batch_tokens):
        total += entropy_sum(source, min(response_lengths[source], response_lengths[mask]))
    return total / sum(response_lengths)


def mismatched_pairs(lengths: Sequence[int], ranks: int, micro_batch_tokens: int) -> list[tuple[int, int]]:
    """Return pairs (trajectory whose entropies are averaged, trajectory whose mask is applied to them).

    As in the authors' verl: trajectories are divided among ranks in shares of equal size and similar numbers of tokens
    (`_balance_batch`). Each rank has as many micro-batches as the fullest rank needs, with similar numbers of tokens,
    each in ascending order (`rearrange_micro_batches`).
    """
    ranks = 1 if len(lengths) % ranks else ranks
    shares = balanced_parts(lengths, ranks, equal_size=True)
    fullest = max(sum(lengths[row] for row in share) for share in shares)
    count = min(ceil(fullest / micro_batch_tokens), len(shares[0]))
    pairs: list[tuple[int, int]] = []
    for share in shares:
        parts = balanced_parts([lengths[row] for row in share], count, equal_size=False)
        pairs += zip((share[place] for place in chain.from_iterable(parts)), share, strict=True)
    return pairs


class _Split:
    """A partition of items, fullest part first; each part is (sum, number of items, [(index, value)])."""

    def __init__(self, parts: list[tuple[int, int, list[tuple[int, int]]]]):
        self.parts = sorted(parts, reverse=True)

    @property
    def spread(self) -> int:
        return self.parts[0][0] - self.parts[-1][0]

    def __lt__(self, other: "_Split") -> bool:
        if self.spread != other.spread:
            return self.spread > other.spread
        return self.parts[0] > other.parts[0]

    def joined(self, other: "_Split") -> "_Split":
        """Join the fullest part of one split with the emptiest of the other, and so on."""
        pairs = zip(self.parts, reversed(other.parts), strict=True)
        return _Split([(a[0] + b[0], a[1] + b[1], a[2] + b[2]) for a, b in pairs])


def balanced_parts(values: Sequence[int], parts: int, equal_size: bool) -> list[list[int]]:
    """Partition the indices of `values` into parts with similar sums by the largest differencing method.

    The method is Karmarkar and Karp's. Each part is in ascending order. Ties are broken as in verl's
    `get_seqlen_balanced_partitions`, so that the partition is identical.
    """
    ordered = sorted((value, place) for place, value in enumerate(values))
    at_once = parts if equal_size else 1
    splits = []
    for start in range(0, len(ordered), at_once):
        items = [(value, 1, [(place, value)]) for value, place in ordered[start : start + at_once]]
        splits.append(_Split([*items, *[(0, 0, [])] * (parts - len(items))]))
    heap: list[_Split] = []
    for split in splits:
        heapq.heappush(heap, split)
    while len(heap) > 1:
        first = heapq.heappop(heap)
        heapq.heappush(heap, first.joined(heapq.heappop(heap)))
    return [sorted(place for place, _ in part[2]) for part in heap[0].parts]
