"""python -m app: serve with the settings of the environment until SIGTERM or Ctrl-C."""

import asyncio
import contextlib
import signal
import socket
import sys
from functools import partial

import uvicorn
from pydantic import ValidationError

from app.api.protocol import LimitedProtocol
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings

LAST_REQUESTS_SECONDS = (
    0.1  # chosen, not tuned: bytes that were sent before the connection was accepted are there by then
)


class Server(uvicorn.Server):
    """uvicorn closes connections whose request it has not read yet, also those accepted in the very moment it stops.

    So it stops listening first, reads what comes from those who were let in, and only then closes the idle ones.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS_SECONDS)
        await super().shutdown(sockets)


def main() -> None:
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            variable = "_".join(["WARDROBE", *(str(part).upper() for part in item["loc"][:1])])
            got = f", got {item['input']!r}" if item["loc"] else ""  # else it is of several settings together
            print(f"{variable}: {item['msg']}{got}.", file=sys.stderr)
        sys.exit(2)
    configure_logging(settings.log_level)
    # uvicorn finishes the running requests and then raises the signal again for the handler that was there before:
    # ours turns it into a clean exit instead of "killed by SIGTERM".
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=partial(LimitedProtocol, timeout_seconds=settings.body_timeout_seconds),  # type: ignore[arg-type]
        ws="none",  # no route has it
        log_config=None,
        access_log=False,  # app.access logs each request with its id and time
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has finished by then
        server.run()
    if not server.started:
        sys.exit("the service did not start")


if __name__ == "__main__":
    main()
