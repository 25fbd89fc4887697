"""The server as a process: listens, says where, and ends without cutting anyone off.

In: backends and an address. Out: nothing, until Ctrl-C or SIGTERM.

The decision: on SIGTERM the port stays open and refuses new replies with 503 and `Retry-After`, so
that a load balancer sees it, while those under way finish, at most DRAIN seconds; then the process
ends. Ctrl-C waits CTRL_C seconds, a second signal for nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType

import uvicorn

from launch.chat.backend import Backend
from launch.chat.listener import bind
from launch.chat.server import Door, create_app

DRAIN = 60.0  # seconds running replies get after SIGTERM
CTRL_C = 5.0


class Server(uvicorn.Server):
    """uvicorn, with a door that shuts before the port does."""

    def __init__(
        self,
        engines: Mapping[str, Backend],
        *,
        api_key: str | None = None,
        drain: float = DRAIN,
        local: bool = False,
    ) -> None:
        self.door = Door()
        self.engines = engines
        self.drain = drain
        self.until = 0.0
        app = create_app(engines, api_key=api_key, door=self.door, local=local)
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=2,
                lifespan="off",
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal shuts the door; a second one ends at once."""
        if not self.door.open:
            self.force_exit = self.should_exit = True
            return
        self.door.open = False
        self.until = time.monotonic() + (CTRL_C if sig == signal.SIGINT else self.drain)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether the server ends now."""
        if not self.door.open and (time.monotonic() > self.until or self._idle()):
            self.should_exit = True
        return await super().on_tick(counter)

    def _idle(self) -> bool:
        loads = [engine.load() for engine in self.engines.values()]
        return not (self.server_state.tasks or any(load.running + load.waiting for load in loads))


def serve(
    engines: Mapping[str, Backend],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    *,
    public: bool = False,
    listener: socket.socket | None = None,
    drain: float = DRAIN,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then return: no new replies, `drain` seconds for the others.

    engines: by the names clients call them (`engine.named`). listener: a socket of `bind`, where it
    was made before the engines. Raises InputError as `bind`.
    """
    listener = listener or bind(host, port, api_key=api_key, public=public)
    name, number = listener.getsockname()[:2]
    local = ipaddress.ip_address(name).is_loopback
    url = f"http://{f'[{name}]' if ':' in name else name}:{number}"
    print(
        f"{' and '.join(engines)} is at {url}  (page: {url}/, OpenAI clients: {url}/v1, end: Ctrl-C)",
        file=sys.stderr,
        flush=True,
    )
    try:
        with _signals_end_quietly():
            Server(engines, api_key=api_key, drain=drain, local=local).run(sockets=[listener])
    finally:
        listener.close()
        for engine in engines.values():
            engine.close()


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it again afterwards; here ending is not an error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
