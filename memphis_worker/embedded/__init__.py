"""A broker for development and tests: nats-server as a child process, the control plane of Memphis 0.3.0 around it.

It shares no code with `memphis_worker.client`: one encoder on both sides would hide its own bug. What it answers is
compared with exchanges recorded from a real broker.
"""

from memphis_worker.embedded.broker import EmbeddedBroker

__all__ = ["EmbeddedBroker"]
