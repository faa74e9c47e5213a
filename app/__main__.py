"""python -m app: serve with the settings of the environment until SIGTERM or Ctrl-C."""

import signal
import sys
from functools import partial

import uvicorn
from pydantic import ValidationError

from app.api.protocol import LimitedProtocol
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings


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
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=partial(LimitedProtocol, timeout_seconds=settings.body_timeout_seconds),  # type: ignore[arg-type]
        ws="none",  # no route has it
        log_config=None,
        access_log=False,  # app.access logs each request with its id and time
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )


if __name__ == "__main__":
    main()
