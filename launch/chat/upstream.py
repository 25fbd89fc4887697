"""A request to a server on this machine, its events read as they come.

In: a port, a path, a JSON body. Out: the objects of a stream of server-sent events.

The decision: h11, which uvicorn brings along, over asyncio's own sockets. One connection a request:
closing it is how a server learns that nobody waits any more, which must happen at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import h11
import orjson

READ = 65536  # bytes at a time


class Refused(Exception):
    """The server answered with an error, or with what is no answer."""


async def post_events(
    port: int, path: str, body: dict[str, Any], key: str
) -> AsyncIterator[dict[str, Any]]:
    """POST `body` and yield each event's JSON, until `[DONE]` or the end.

    Closing the iterator, or cancelling whoever waits for it, closes the connection. Raises Refused
    for a status other than 200, with the start of what was said, and OSError where nobody listens.
    """
    content = orjson.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", f"127.0.0.1:{port}"),
            ("Authorization", f"Bearer {key}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        request = h11.Request(method="POST", target=path, headers=headers)
        for part in (request, h11.Data(data=content), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        status, held = 0, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(READ))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                held += bytes(event.data)
                if status != 200:
                    continue
                *lines, held = held.split(b"\n")
                for line in lines:
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    if data and line.startswith(b"data:"):
                        yield orjson.loads(data)
            elif isinstance(event, h11.InformationalResponse):
                continue
            else:  # the end of the message, or of the connection
                break
        if status != 200:
            raise Refused(f"status {status}: {held[:500].decode('utf-8', 'replace')}")
    except h11.RemoteProtocolError as error:
        raise Refused(f"the connection broke: {error}") from None
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
