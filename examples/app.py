"""A small shop: every order is billed, shipped and reported, each by a consumer group of its own.

    memphis-worker run examples.app:app --embedded

Nobody else orders anything on a fresh broker, so the shop places a few orders itself; SHOP_ORDERS says how many
(default 5, 0 for none). Send your own with `memphis-worker send orders '{"id": 7, "item": "tea", "price": 3.5}'`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from memphis_worker import App, Backoff, Context, MemphisWorkerError, Message, Reject

ITEMS = ["tea", "coffee", "cake", "unicorn", "milk"]


@dataclass
class Order:
    id: int
    item: str
    price: float


@contextlib.asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    app.state.invoices = {}
    customers = asyncio.create_task(place_orders(int(os.environ.get("SHOP_ORDERS", "5"))))
    try:
        yield
    finally:
        customers.cancel()


app = App("shop", lifespan=lifespan)


@app.handler(station="orders", group="billing")
async def bill(order: Order, context: Context) -> None:
    """An async handler: acked when it returns."""
    context.state.invoices[order.id] = order.price
    print(f"billing   order {order.id}: {order.item} for {order.price:.2f}", flush=True)
    await app.produce("invoices", {"order": order.id, "total": order.price}, msg_id=f"invoice-{order.id}")


@app.handler(station="orders", group="shipping")
def ship(order: Order) -> None:
    """A plain def runs in a thread."""
    print(f"shipping  order {order.id}: {order.item}", flush=True)


@app.handler(station="orders", group="customs", max_msg_deliveries=3, retry=Backoff(base_s=0.2))
async def declare(order: Order, message: Message) -> None:
    """A failing one: unicorns are tried three times, then they are dead letters. A free lunch is one at once."""
    if order.price == 0:
        raise Reject("nothing is free")
    if order.item == "unicorn":
        print(f"customs   order {order.id}: attempt {message.deliveries} failed", flush=True)
        raise ValueError("unicorns may not be exported")
    print(f"customs   order {order.id}: declared", flush=True)


@app.handler(station="invoices", group="archive")
async def archive(invoice: dict[str, float]) -> None:
    print(f"archive   invoice of order {invoice['order']:.0f}", flush=True)


async def place_orders(count: int) -> None:
    """The customers. They wait until the worker runs and the station is there."""
    for number in range(1, count + 1):
        order = Order(number, ITEMS[(number - 1) % len(ITEMS)], 2.5 * number)
        while True:
            try:
                await app.produce("orders", order, msg_id=f"order-{number}")
                break
            except MemphisWorkerError:  # not connected, or no station yet
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
