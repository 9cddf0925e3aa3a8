"""A program that uses the published SDK memphis-py 0.1.5. `sdk_0_1_5.py MANAGEMENT_PORT TCP_PORT DATA_PORT`.

It runs in a venv of its own: the SDK needs nothing of this project. Each line of output is one thing that worked.
"""

import asyncio
import sys

from memphis import Memphis

MESSAGES = 25
WAIT_S = 15


async def main(management_port: int, tcp_port: int, data_port: int) -> None:
    memphis = Memphis()
    await memphis.connect(
        host="127.0.0.1",
        username="root",
        connection_token="memphis",
        management_port=management_port,
        tcp_port=tcp_port,
        data_port=data_port,
    )
    print("connected")
    try:
        await work(memphis)
    finally:
        await memphis.close()
    print("closed")


async def work(memphis: Memphis) -> None:
    factory = await memphis.factory("sdk_factory", "a factory")
    again = await memphis.factory("sdk_factory")
    print(f"factory {factory.name}, again {again.name}")
    station = await memphis.station("sdk_station", "sdk_factory")
    again = await memphis.station("sdk_station", "sdk_factory")
    print(f"station {station.name}, again {again.name}")
    producer = await memphis.producer("sdk_station", "sdk_producer")
    consumer = await memphis.consumer("sdk_station", "sdk_consumer", consumer_group="sdk_group")
    for number in range(MESSAGES):
        await producer.produce(f"message {number}".encode())
    print(f"produced {MESSAGES}")
    print(f"consumed {await consume(consumer)}")
    await expect_error(memphis.producer("sdk_station", "sdk_producer"), "has to be unique")
    await consumer.destroy()
    await producer.destroy()
    await station.destroy()
    await expect_error(station.destroy(), "Station does not exist")
    await factory.destroy()
    print("destroyed")


async def consume(consumer: object) -> int:
    seen: list[bytes] = []
    complete = asyncio.Event()

    async def receive(messages: list) -> None:
        for message in messages:
            seen.append(message.get_data())
            await message.ack()
        if len(seen) >= MESSAGES:
            complete.set()

    consumer.consume(receive)
    await asyncio.wait_for(complete.wait(), WAIT_S)
    assert seen == [f"message {number}".encode() for number in range(MESSAGES)], seen
    return len(seen)


async def expect_error(call: object, text: str) -> None:
    try:
        await call
    except Exception as error:
        print(f"refused: {text}" if text in str(error) else f"refused with other words: {error}")
    else:
        print("not refused")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
