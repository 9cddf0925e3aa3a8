"""The handlers of an app, by station and group: two of them may not share one, or each would get half the messages."""

from __future__ import annotations

from collections.abc import Iterator

from memphis_worker.errors import InvalidHandler, UsageError
from memphis_worker.handler import Handler

__all__ = ["Registry"]


class Registry:
    """(station, group) -> Handler, in the order of registration."""

    def __init__(self) -> None:
        self._by_group: dict[tuple[str, str], Handler] = {}

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_group.values())

    def __len__(self) -> int:
        return len(self._by_group)

    def add(self, handler: Handler) -> None:
        """Raises InvalidHandler for a second handler of a group, or of a name."""
        key = (handler.station, handler.group)
        other = self._by_group.get(key)
        if other is not None:
            raise InvalidHandler(
                f"handlers {other.name} and {handler.name} both have station {handler.station!r} and group "
                f"{handler.group!r}; give one of them another group"
            )
        if any(each.name == handler.name for each in self):
            raise InvalidHandler(f"two handlers are named {handler.name}; give one of them name=")
        self._check_dead_letters(handler)
        self._by_group[key] = handler

    def _check_dead_letters(self, handler: Handler) -> None:
        """A dead letter that comes back to where it failed would go round for ever."""
        targets: dict[str, set[str]] = {}
        for each in (*self, handler):
            if each.dead_station is not None:
                targets.setdefault(each.station, set()).add(each.dead_station)
        reached, ahead = set[str](), [handler.station]
        while ahead:
            for station in targets.get(ahead.pop(), ()):
                if station == handler.station:
                    raise InvalidHandler(
                        f"handler {handler.name}: the dead letters of station {station!r} come back to it, round and "
                        "round; give one of the handlers on the way dead_letter=False or another station"
                    )
                if station not in reached:
                    reached.add(station)
                    ahead.append(station)

    def select(self, only: tuple[str, ...], exclude: tuple[str, ...]) -> list[Handler]:
        """The handlers to run: `only` these names (empty: all), but not those of `exclude`. Raises UsageError."""
        known = {name for each in self for name in (each.name, each.name.rpartition(".")[2])}
        for name in (*only, *exclude):
            if name not in known:
                raise UsageError(
                    f"no handler is named {name!r}; there are: {', '.join(each.name for each in self) or 'none'}"
                )

        def named(handler: Handler, names: tuple[str, ...]) -> bool:
            return handler.name in names or handler.name.rpartition(".")[2] in names

        return [each for each in self if (not only or named(each, only)) and not named(each, exclude)]
