"""Two trainings on one node: verl's own sender and receiver, on the sockets that the trainers of this project name."""

import asyncio
import tempfile
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")
from verl.plugin.platform import set_platform
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout import base
from verl.workers.rollout.vllm_rollout import ServerAdapter, vllm_rollout
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from justrl.training.verl import cpu_platform, plugin, settings, weights
from justrl.training.verl.weights import WeightKeepingExtension

pytestmark = [pytest.mark.verl, pytest.mark.timeout(300)]

TENSORS = 50
JOB = "01000000"  # of the first job of any Ray cluster, as each training is
EXTENSIONS = (weights.Receiver, WeightKeepingExtension)


def sender_of(kind: type[ServerAdapter]) -> str:
    """The socket that the adapter of the second of four ranks names."""
    return kind(
        RolloutConfig(name="vllm", tensor_model_parallel_size=1), object.__new__(HFModelConfig), None
    ).zmq_handle


def receiver_of(kind: type[vLLMColocateWorkerExtension]) -> str:
    """The socket that the extension of the second vLLM's worker names."""
    worker = object.__new__(kind)
    worker.local_rank, worker.model_runner = 0, SimpleNamespace(vllm_config=None)
    return worker._get_zmq_handle()


@pytest.fixture
def first_job(monkeypatch):
    """The environment of a rank and of its vLLM's worker, as verl sets it."""
    context = SimpleNamespace(get_job_id=lambda: JOB)
    monkeypatch.setattr(vllm_rollout.ray, "get_runtime_context", lambda: context)
    for name, value in {"RANK": 1, "RAY_LOCAL_WORLD_SIZE": 4, "VERL_REPLICA_RANK": 1, "VERL_RAY_JOB_ID": JOB}.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def scratch():
    """A temporary folder with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def sockets_in(folder, monkeypatch, sender, receiver) -> tuple[str, str]:
    """What both sides name where an attempt's temporary folder is this one."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return sender_of(sender), receiver_of(receiver)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_both_sides_name_one_socket_which_is_the_attempts_own(first_job, monkeypatch, extension):
    before, verls = sockets_in("/tmp/jrl-a", monkeypatch, ServerAdapter, vLLMColocateWorkerExtension)
    assert before == verls == f"ipc:///tmp/rl-colocate-zmq-{JOB}-replica-1-rank-0.sock"
    own = f"ipc:///tmp/jrl-a/rl-colocate-zmq-{JOB}-replica-1-rank-0.sock"
    assert sockets_in("/tmp/jrl-a", monkeypatch, weights.Sender, extension) == (own, own)
    assert sockets_in("/tmp/jrl-b", monkeypatch, weights.Sender, extension) != (own, own)


def test_the_trainers_of_an_attempt_take_them(monkeypatch):
    monkeypatch.setitem(base._ROLLOUT_REGISTRY, ("vllm", "async"), base._ROLLOUT_REGISTRY["vllm", "async"])
    plugin.take_own_sockets()
    assert base.get_rollout_class("vllm") is weights.Sender
    named = {row.value.rpartition(".")[2] for row in (*settings.RUN, *settings.CPU) if "worker_extension" in row.key}
    assert named == {extension.__name__ for extension in EXTENSIONS}


def test_a_name_that_is_no_longer_verls_is_refused():
    with pytest.raises(ValueError, match="no longer ipc:///tmp/"):
        weights.in_scratch("ipc:///run/verl.sock")


def test_two_trainings_at_once_get_their_own_weights(first_job, scratch, monkeypatch):
    """By verl's names one gets the other's, and the rest wait for ever."""
    set_platform(cpu_platform.PlatformCPU())
    got: dict[str, set[float]] = {}

    def send(handle: str, value: float) -> None:
        weights = [(f"layers.{number}.weight", torch.full((64, 64), value)) for number in range(TENSORS)]
        sender = BucketedWeightSender(zmq_handle=handle, bucket_size_mb=1, use_shm=True)
        asyncio.run(sender.async_send_weights(iter(weights)))

    def receive(handle: str, training: str) -> None:
        values = got.setdefault(training, set())
        take = lambda weights, is_last: values.update(float(tensor[0, 0]) for _, tensor in weights)  # noqa: E731
        BucketedWeightReceiver(zmq_handle=handle, device=torch.device("cpu"), use_shm=True).receive_weights(take)

    work = []
    for training, value in {"a": 1.0, "b": 2.0}.items():
        folder = scratch / training
        folder.mkdir()
        sender, receiver = sockets_in(folder, monkeypatch, weights.Sender, weights.Receiver)
        work += [Thread(target=send, args=(sender, value)), Thread(target=receive, args=(receiver, training))]
    for thread in work:
        thread.daemon = True
        thread.start()
    for thread in work:
        thread.join(60)
    assert got == {"a": {1.0}, "b": {2.0}}
