"""Serve with the settings of the environment until SIGTERM or Ctrl-C."""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app.api.protocol import LimitedProtocol, max_connections
from app.logs import configure_logging
from app.main import create_app
from app.metrics import MULTIPROCESS_FOLDER_VARIABLE
from app.settings import Settings

# A worker that does not answer uvicorn for so long is killed. Its default, 5 s, is less than the imports take on a busy
# machine, and such a worker would be started again and again (https://github.com/Kludex/uvicorn/issues/2506). Chosen.
WORKER_HEALTHCHECK_SECONDS = 30


def serve() -> None:
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            variable = "_".join(["WARDROBE", *(str(part).upper() for part in item["loc"][:1])])
            # Without a place it is of several settings together; a key itself, where its digest is due, stays unsaid.
            shown = item["loc"] and item["loc"][0] != "api_key_sha256"
            got = f", got {item['input']!r}" if shown else ""
            print(f"{variable}: {item['msg']}{got}.", file=sys.stderr)
        sys.exit(2)
    _greet(settings)
    configure_logging(settings.log_level, with_process=settings.workers > 1)
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": partial(
            LimitedProtocol, timeout_seconds=settings.body_timeout_seconds, max_connections=max_connections()
        ),
        "ws": "none",  # no route has it
        "log_config": None,
        "access_log": False,  # app.access logs each request with its id and time
        "timeout_graceful_shutdown": settings.shutdown_timeout_seconds,
    }
    if settings.workers > 1:
        _serve_with_workers(settings.workers, options)
    else:
        _serve(settings, options)


def _greet(settings: Settings) -> None:
    """Tell a person at a terminal where the page is, above the log; or, before anything is loaded, why it cannot be."""
    host, port = settings.host, settings.port
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        print(f"WARDROBE_HOST, WARDROBE_PORT: cannot listen on {host}, port {port}: {reason}.", file=sys.stderr)
        sys.exit(2)
    if sys.stdout.isatty() and port:
        shown = f"[{host}]" if ":" in host else host
        print(f"Open http://{shown}:{port} in a browser. Ctrl-C stops it; below is its log.", flush=True)


def _serve(settings: Settings, options: dict[str, Any]) -> None:
    # uvicorn finishes the running requests and then raises the signal again for the handler that was there before:
    # ours turns it into a clean exit instead of "killed by SIGTERM".
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(create_app(settings), **options)


def _serve_with_workers(num_workers: int, options: dict[str, Any]) -> None:
    """Leave it to uvicorn to start the processes, to start one again that has died, and to hand on SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="wardrobe-metrics-") as folder:  # empty: nothing is left of an earlier run
        os.environ[MULTIPROCESS_FOLDER_VARIABLE] = folder  # before a worker imports prometheus_client
        uvicorn.run(
            f"{__name__}:{create_worker_app.__name__}",
            factory=True,
            workers=num_workers,
            timeout_worker_healthcheck=WORKER_HEALTHCHECK_SECONDS,
            **options,
        )


def create_worker_app() -> FastAPI:
    """The application of one of several processes."""
    settings = Settings()
    configure_logging(settings.log_level, with_process=True)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    return create_app(settings, one_of_several=True)


def _leave_with_parent() -> None:
    """Wait until the parent is gone, however it ended: without it nobody stops this process, which holds the port."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
