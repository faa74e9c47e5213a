"""python -m app: serve with the settings of the environment until SIGTERM or Ctrl-C."""

import signal
import sys

import uvicorn

from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings


def main() -> None:
    settings = Settings()
    configure_logging(settings.log_level)
    # uvicorn finishes the running requests and then raises the signal again for the handler that was there before:
    # ours turns it into a clean exit instead of "killed by SIGTERM".
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # app.access logs each request with its id and time
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )


if __name__ == "__main__":
    main()
