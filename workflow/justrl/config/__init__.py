"""The experiment as types, its files, and where each result goes."""

# The other packages import these names from here.
# ruff: noqa: F401

from justrl.config.evaluation import PER_BENCHMARK, Benchmark, EvalProtocol, HubBenchmark, LocalBenchmark
from justrl.config.experiment import Experiment, load, settings, spelled_out
from justrl.config.hardware import EngineSettings, Hardware
from justrl.config.schema import (
    AGGREGATION,
    LEAST_HANG_MINUTES,
    PREPARED,
    Alarms,
    CanaryRun,
    HubDataset,
    HubModel,
    LocalDataset,
    LocalModel,
    OwnFunction,
    Part,
    Recipe,
    Run,
    RunDescription,
    SeedRun,
    TinyModel,
    Tracker,
    read_part,
    with_defaults,
)
