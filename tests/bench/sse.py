"""A load of chats over OpenAI's HTTP: how long until the first words, and between words. Needs nothing but Python.

One connection for each request that runs, kept open; a plain reader of event streams, since what clients do beside
reading would be measured too.
"""

import asyncio
import json
import math
import time
from dataclasses import dataclass, field

PROMPT = " ".join(["Tell me a little more."] * 12)


@dataclass
class Times:
    """Seconds."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, dict[str, float]]:
        """As `weft bench` tells them, in milliseconds."""
        named = {"ttft_ms": self.first, "itl_ms": self.gaps}
        return {name: {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)} for name, times in named.items()}


def quantile(times: list[float], share: float) -> float:
    """Milliseconds."""
    return 1e3 * sorted(times)[max(0, math.ceil(share * len(times)) - 1)]


class Connection:
    """One connection, for one request after another."""

    def __init__(self, address: str, tokens: int) -> None:
        self._address = address
        body = {"model": "", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "stream": True}
        self._body = body | {"ignore_eos": True}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def chat(self, model: str, times: Times) -> None:
        """One answer, to its end."""
        if self._streams is None:
            host, port = self._address.split(":")
            self._streams = await asyncio.open_connection(host, int(port))
        reader, writer = self._streams
        body = json.dumps(self._body | {"model": model}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._address}\r\ncontent-type: application/json\r\n"
        begun = last = time.monotonic()
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0]
        if b" 200 " not in status + b" ":
            raise RuntimeError(f"{self._address}: {status.decode()}: {(await reader.read(2000)).decode()}")
        first = True
        async for data in events(reader):
            content = data["choices"] and data["choices"][0]["delta"].get("content")
            if not content:
                continue
            now = time.monotonic()
            (times.first if first else times.gaps).append(now - (begun if first else last))
            first, last = False, now

    def close(self) -> None:
        """Hangs up."""
        if self._streams is not None:
            self._streams[1].close()


async def events(reader: asyncio.StreamReader):  # noqa: ANN201 (an iterator of what JSON holds)
    """What a chunked body of events says, until its last chunk."""
    text = b""
    while size := int(await reader.readline(), 16):
        text += await reader.readexactly(size)
        await reader.readexactly(2)
        *whole, text = text.split(b"\n\n")
        for event in whole:
            data = event.removeprefix(b"data:").strip()
            if data.startswith(b"{"):
                yield json.loads(data)
    await reader.readline()


async def closed(address: str, model: str, concurrency: int, requests: int, tokens: int) -> Times:
    """So many callers, each with its next request when its last was answered."""
    times, left = Times(), iter(range(requests))

    async def caller() -> None:
        connection = Connection(address, tokens)
        for _ in left:
            await connection.chat(model, times)
        connection.close()

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return times


async def paced(address: str, model: str, rate: float, seconds: float, tokens: int) -> int:
    """So many requests a second, whatever becomes of them; gives how many there were."""
    begun, idle, calls = time.monotonic(), [], []

    async def one() -> None:
        connection = idle.pop() if idle else Connection(address, tokens)
        await connection.chat(model, Times())
        idle.append(connection)

    for at in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + at / rate - time.monotonic()))
        calls.append(asyncio.create_task(one()))
    await asyncio.gather(*calls)
    for connection in idle:
        connection.close()
    return len(calls)
