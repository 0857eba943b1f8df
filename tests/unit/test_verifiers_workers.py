"""The worker pool: hard limits, order, replacement of workers, and what it reports of each."""

import os
import threading
import time
from pathlib import Path

import pytest

from justrl.verifiers.workers import GaveUp, WorkerPool

TASK = """
import os, subprocess, sys, time

def run(item):
    kind, value = item
    if kind == "echo":
        return value
    if kind == "spin":
        while True:
            pass
    if kind == "big integer":
        # One call into C: no Python code runs until it ends, which would be in years.
        return len(str(9 ** 9 ** value))
    if kind == "sleep":
        time.sleep(value)
        return "awake"
    if kind == "memory":
        return len(bytearray(value))
    if kind == "deep":
        return run(item)
    if kind == "exit":
        os._exit(3)
    if kind == "print":
        print("x" * 100_000)
        return "printed"
    if kind == "pid":
        return os.getpid()
    if kind == "read":
        return sys.stdin.read()
    if kind == "start":
        # A program in the background, which then is waited for in vain.
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(value, "w").write(str(program.pid))
        program.wait()

def prepared(argument):
    if argument == "dies":
        os._exit(3)
    return lambda item: [argument, item]
"""


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """A folder on the workers' path with the tasks above."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "pool_tasks.py").write_text(TASK)
    (folder / "broken_tasks.py").write_text("raise RuntimeError('the tables are missing')")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    yield folder
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def pool(task_folder):
    """Two workers with half a second of processor time for each item."""
    pool = WorkerPool("pool_tasks:run", workers=2, cpu_seconds=0.5, wall_seconds=4, memory_mb=1024)
    yield pool
    pool.close()


def gave_up(result) -> bool:
    return isinstance(result, GaveUp)


def test_results_keep_the_order_of_items(pool):
    items = [["echo", number] for number in range(500)]
    assert pool.map(items) == list(range(500))
    assert pool.map([]) == []


def test_only_the_hostile_items_are_given_up(pool):
    hostile = [["spin", 0], ["big integer", 99], ["memory", 2**33], ["deep", 0], ["exit", 0]]
    items = [["echo", number] for number in range(40)]
    for position, item in zip((0, 7, 8, 20, 39), hostile, strict=True):
        items.insert(position, item)
    results = pool.map(items)
    kept = [result for item, result in zip(items, results, strict=True) if item[0] == "echo"]
    assert kept == list(range(40))
    assert all(gave_up(result) == (item[0] != "echo") for item, result in zip(items, results, strict=True))
    assert pool.map([["echo", "after"]]) == ["after"]


@pytest.mark.timeout(60)
def test_a_worker_that_only_waits_is_ended_by_the_wall_clock(pool):
    slept, kept = pool.map([["sleep", 600], ["echo", 1]])
    assert gave_up(slept) and slept.reason == "wall-clock time"
    assert kept == 1


def test_prints_of_a_task_are_not_taken_for_answers(pool):
    assert pool.map([["print", 0], ["echo", 5]]) == ["printed", 5]


def test_text_of_any_characters_arrives_unchanged(pool):
    texts = ["\ud800 lone", "\x00", "\n\r\u2028", "٣", "🙂", '"\\']
    assert pool.map([["echo", text] for text in texts]) == texts


def test_items_and_results_longer_than_a_pipe_arrive(pool):
    texts = [character * length for character, length in [("x", 3_000_000), ("🙂", 200_000), ("y", 10)]]
    assert pool.map([["echo", text] for text in texts]) == texts


def test_what_a_task_reads_is_not_the_next_item(pool):
    assert pool.map([["read", 0], ["echo", 5]]) == ["", 5]


@pytest.mark.timeout(60)
def test_programs_that_a_task_has_started_end_with_it(pool, tmp_path):
    started, kept = pool.map([["start", str(tmp_path / "pid")], ["echo", 1]])
    assert gave_up(started) and kept == 1
    pid = int((tmp_path / "pid").read_text())
    while running(pid):  # the kernel ends a killed process when it is next scheduled
        time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_each_child_is_prepared_with_the_argument(task_folder):
    pool = WorkerPool("pool_tasks:prepared", workers=1, argument='{"a": 1}')
    assert pool.map([1, 2]) == [['{"a": 1}', 1], ['{"a": 1}', 2]]
    pool.close()


@pytest.mark.timeout(60)
def test_a_child_that_dies_of_its_preparation_gives_its_items_up(task_folder):
    pool = WorkerPool("pool_tasks:prepared", workers=1, argument="dies")
    assert all(gave_up(result) for result in pool.map([1, 2, 3]))
    pool.close()


def test_close_ends_the_processes_and_the_pool_starts_anew(pool):
    (before,) = pool.map([["pid", 0]])
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    (after,) = pool.map([["pid", 0]])
    assert after != before


def test_threads_may_share_a_pool(pool):
    results = {}

    def work(number):
        results[number] = pool.map([["echo", [number, index]] for index in range(50)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [[number, index] for index in range(50)] for number in range(4)}


def test_a_forked_child_does_not_use_its_parents_workers(pool):
    (parents_worker,) = pool.map([["pid", 0]])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        (own,) = pool.map([["pid", 0]])
        pool.close()
        os.write(writer, str(own).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) != parents_worker
    assert pool.map([["echo", "still here"]]) == ["still here"]
    os.close(reader)
    os.close(writer)


def test_workers_that_cannot_start_are_an_error_with_their_words(task_folder):
    pool = WorkerPool("broken_tasks:run", workers=1)
    with pytest.raises(RuntimeError, match="the tables are missing"):
        pool.map([["echo", 1]])
