"""Factories: folders of stations. Source: Memphis 0.3.0 (tests/wire/classic/http.jsonl parts A and C)."""

from __future__ import annotations

from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Field, required
from memphis_worker.embedded.gojson import date_ms, date_ns
from memphis_worker.embedded.http import Reply, ok, showable
from memphis_worker.embedded.state import Factory, State
from memphis_worker.embedded.stations import Stations, check_factory_name, station_item


class Factories:
    """The endpoints below /api/factories."""

    def __init__(self, state: State, stations: Stations) -> None:
        self._state = state
        self._stations = stations

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        base, factory = "/api/factories", required("factory_name")
        created = (*required("name", most=25), Field(name="description"))
        edited = (*factory, Field(name="factory_new_name"), Field(name="factory_new_description"))
        return [
            Endpoint(method="POST", path=f"{base}/createFactory", handler=self.create_factory, fields=created),
            Endpoint(method="GET", path=f"{base}/getAllFactories", handler=self.get_all_factories),
            Endpoint(method="GET", path=f"{base}/getFactory", handler=self.get_factory, fields=factory),
            Endpoint(
                method="PUT", path=f"{base}/editFactory", handler=self.edit_factory, fields=edited, sandboxed=True
            ),
            Endpoint(
                method="DELETE",
                path=f"{base}/removeFactory",
                handler=self.remove_factory,
                fields=factory,
                sandboxed=True,
            ),
        ]

    async def create_factory(self, call: Call) -> Reply:
        """The description is stored in lower case, too."""
        name = call.values["name"].lower()
        check_factory_name(name)
        if self._state.factory(name) is not None:
            raise showable("Factory with that name is already exist")
        factory = self._stations.add_factory(name, call.username, call.values["description"].lower())
        return ok(
            {
                "created_by_user": factory.created_by_user,
                "creation_date": date_ns(factory.created),
                "description": factory.description,
                "id": factory.id,
                "name": factory.name,
            }
        )

    async def get_all_factories(self, call: Call) -> Reply:
        """All factories."""
        found = (factory for factory in self._state.factories if not factory.is_deleted)
        return ok([{**_factory(factory), "user_avatar_id": self._avatar(factory)} for factory in found])

    async def get_factory(self, call: Call) -> Reply:
        """One factory and its stations."""
        factory = self._state.factory(call.values["factory_name"].lower())
        if factory is None:
            raise showable("Factory does not exist")
        stations = [station_item(station) for station in self._state.stations_of(factory)]
        shown = {**_factory(factory), "stations": stations, "user_avatar_id": self._avatar(factory)}
        return ok(dict(sorted(shown.items())))

    async def edit_factory(self, call: Call) -> Reply:
        """The new name is put in lower case and not checked: so it is on the real broker."""
        values = call.values
        factory = self._state.factory(values["factory_name"].lower())
        if factory is None:
            raise showable("Factory with that name does not exist")
        name = values["factory_new_name"].lower()
        if name and name != factory.name:
            if self._state.factory(name) is not None:
                raise showable("Factory with that name already exist")
            factory.name = name
        if values["factory_new_description"]:
            factory.description = values["factory_new_description"].lower()
        return ok({**_factory(factory), "is_deleted": False})

    async def remove_factory(self, call: Call) -> Reply:
        """Removes its stations too."""
        factory = self._state.factory(call.values["factory_name"].lower())
        if factory is None:
            raise showable("Factory does not exist")
        for station in self._state.stations_of(factory):
            await self._stations.remove(station)
        factory.is_deleted = True
        self._state.note(f"Factory {factory.name} has been deleted")
        return ok({})

    def _avatar(self, factory: Factory) -> int:
        user = self._state.user(factory.created_by_user)
        return user.avatar_id if user else 1


def _factory(factory: Factory) -> dict[str, object]:
    return {
        "id": factory.id,
        "name": factory.name,
        "description": factory.description,
        "created_by_user": factory.created_by_user,
        "creation_date": date_ms(factory.created),
    }
