"""The entropy that the authors' code logs: which entropies meet which mask, and by how much it is too small."""

import random

import pytest

from justrl.training.published_entropy import balanced_parts, entropy_as_published, mismatched_pairs


def even(entropy):
    """Trajectories whose tokens all have the same entropy."""
    return lambda row, tokens: entropy * tokens


def test_a_small_step_by_hand():
    # Two micro-batches of 12 tokens: the longest sequence with the shortest, and the two between them.
    lengths = [2, 5, 7, 10]
    assert mismatched_pairs(lengths, ranks=1, micro_batch_tokens=12) == [(0, 0), (3, 1), (1, 2), (2, 3)]
    # Counted are min(2, 2) + min(10, 5) + min(5, 7) + min(7, 10) = 19 of 24 tokens.
    assert entropy_as_published(lengths, lengths, even(0.5), 1, 12) == pytest.approx(0.5 * 19 / 24)
    # The tokens that are counted are the first of each response, with the entropies that they have.
    falling = [[1.0 / (token + 1) for token in range(length)] for length in lengths]
    counted = sum(falling[0]) + sum(falling[3][:5]) + sum(falling[1]) + sum(falling[2])
    got = entropy_as_published(lengths, lengths, lambda row, tokens: sum(falling[row][:tokens]), 1, 12)
    assert got == pytest.approx(counted / 24)


def test_one_micro_batch_is_measured_right():
    assert entropy_as_published([30, 20, 10, 40], [20, 10, 5, 30], even(0.3)) == pytest.approx(0.3)


def test_at_the_size_of_the_paper_it_is_two_thirds():
    """256 x 8 responses of the lengths early in the paper; the expected factor is mean(min(L, L')) / mean(L)."""
    source = random.Random(0)
    responses = [min(15_360, int(source.lognormvariate(8.6, 0.75))) for _ in range(2048)]
    sequences = [length + source.randrange(60, 200) for length in responses]
    factor = entropy_as_published(sequences, responses, even(1.0))
    ordered = sorted(responses)
    expected = sum(length * (2 * (2048 - rank) - 1) for rank, length in enumerate(ordered)) / 2048 / sum(ordered)
    assert 0.6 < expected < 0.75
    assert factor == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("equal_size", [False, True])
def test_parts_hold_everything_once_and_are_alike(parts, equal_size):
    values = [random.Random(parts).randrange(1, 500) for _ in range(48)]
    divided = balanced_parts(values, parts, equal_size)
    assert sorted(place for part in divided for place in part) == list(range(48))
    assert all(part == sorted(part) for part in divided)
    sums = [sum(values[place] for place in part) for part in divided]
    assert max(sums) - min(sums) < 0.1 * sum(values) / parts
    if equal_size:
        assert {len(part) for part in divided} == {48 // parts}
