"""A node whose Ray takes longer to start than Ray itself waits."""

import pytest

from justrl.training.verl.ray_start import patient


def answers(*outcomes):
    """A question to Ray with these outcomes in turn, the last for ever; it counts how often it was asked."""

    def ask(node):
        ask.times += 1
        outcome = outcomes[min(ask.times, len(outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return node, outcome

    ask.times = 0
    return ask


def test_it_is_waited_for():
    late = RuntimeError(b"RPC error: Deadline Exceeded")
    ask = answers(late, late, "up")
    assert patient(ask, seconds=60)("this node") == ("this node", "up")
    assert ask.times == 3


def test_not_for_ever():
    ask = answers(RuntimeError("not there"))
    with pytest.raises(RuntimeError, match="not there"):
        patient(ask, seconds=0.3)("this node")
    assert ask.times > 1


def test_another_error_is_told_at_once():
    ask = answers(OSError("no such address"))
    with pytest.raises(OSError, match="no such address"):
        patient(ask, seconds=60)("this node")
    assert ask.times == 1
