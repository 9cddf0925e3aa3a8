"""The Memphis client: usable without the worker."""

from __future__ import annotations

from memphis_worker.client.connection import Memphis
from memphis_worker.client.consumer import Consumer
from memphis_worker.client.factory import Factory
from memphis_worker.client.jetstream import GroupLag, PubAck
from memphis_worker.client.message import Message
from memphis_worker.client.producer import Producer
from memphis_worker.client.station import Station

__all__ = ["Consumer", "Factory", "GroupLag", "Memphis", "Message", "Producer", "PubAck", "Station"]
