"""The testing kit: run an app in a test, on a broker in memory and in virtual time. No network, no waiting."""

from __future__ import annotations

from memphis_worker.testing.durable import Answer
from memphis_worker.testing.memory import MemoryBroker
from memphis_worker.testing.virtual import Stuck, VirtualLoop, run
from memphis_worker.testing.worker import DeadLetter, Outcome, TestWorker, running

__all__ = [
    "Answer",
    "DeadLetter",
    "MemoryBroker",
    "Outcome",
    "Stuck",
    "TestWorker",
    "VirtualLoop",
    "run",
    "running",
]
