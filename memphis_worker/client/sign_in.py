"""Signing in: first to the control plane, which says where messages flow, then to the data port."""

from __future__ import annotations

from memphis_worker.client.control.classic import ClassicPlane
from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.nats_transport import NatsTransport
from memphis_worker.client.transport import Transport
from memphis_worker.options import ConnectOptions

__all__ = ["sign_in"]


async def sign_in(options: ConnectOptions) -> tuple[ControlPlane, Transport]:
    """Both, open; or neither. Raises NotReachable, AuthenticationFailed, BrokerRefused."""
    plane = ClassicPlane(options)
    transport: NatsTransport | None = None
    try:
        data_plane = await plane.open()
        transport = NatsTransport(
            data_plane,
            reconnect=options.reconnect,
            max_reconnect=options.max_reconnect,
            reconnect_interval_s=options.reconnect_interval_ms / 1000,
            timeout_s=options.timeout_ms / 1000,
        )
        await transport.connect()
    except BaseException:
        if transport is not None:
            await transport.close()
        await plane.close()
        raise
    return plane, transport
