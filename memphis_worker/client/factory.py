"""A factory: the classic broker's folder of stations."""

from __future__ import annotations

from collections.abc import Generator

from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.operation import Operation, Operations

__all__ = ["Factory"]


class Factory:
    """Made by `Memphis.factory`, which has started to create it: await it, or the first use waits.

    As a context manager it is confirmed on entry; leaving destroys nothing.
    """

    def __init__(self, operations: Operations, plane: ControlPlane, name: str, created: Operation) -> None:
        self._operations = operations
        self._plane = plane
        self.name = name
        self._created = created
        self._destroyed: Operation | None = None

    def __repr__(self) -> str:
        return f"<Factory {self.name}>"

    def __await__(self) -> Generator[object, None, Factory]:
        return self._confirmed().__await__()

    async def __aenter__(self) -> Factory:
        return await self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def destroy(self) -> Operation:
        """Removes it with all its stations, their messages, producers and consumers. Starts at once; awaitable.

        Raises, when awaited: Missing, BrokerRefused, and the error of its own creation.
        """
        if self._destroyed is None:
            self._destroyed = self._operations.start(f"destroy factory {self.name!r}", self._destroy)
        return self._destroyed

    async def _confirmed(self) -> Factory:
        await self._created
        return self

    async def _destroy(self) -> None:
        await self._created
        await self._plane.destroy_factory(self.name)
