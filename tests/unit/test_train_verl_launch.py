"""How verl's trainer is started."""

import pytest

from justrl.train.verl import launch

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


def started(*outcomes):
    """Start with what Ray does in turn; the number of starts and of shut-downs."""
    left, counts = list(outcomes), {"starts": 0, "shut down": 0}

    def train():
        counts["starts"] += 1
        if problem := left.pop(0):
            raise problem

    launch.start(train, lambda: counts.update({"shut down": counts["shut down"] + 1}))
    return counts["starts"], counts["shut down"]


def test_a_ray_that_does_not_come_up_in_time_is_started_again(capsys):
    assert started(Exception(LATE), Exception(LATE), None) == (3, 2)
    assert "2 more tries" in capsys.readouterr().err


def test_not_for_ever():
    with pytest.raises(Exception, match="timed out"):
        started(*[Exception(LATE)] * launch.STARTS)


def test_a_training_that_failed_is_not_begun_again():
    with pytest.raises(RuntimeError, match="out of memory"):
        started(RuntimeError("out of memory"), None)
