"""Structured logs: one JSON object a line on standard error, each with the id of the request it belongs to."""

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.api.middleware import request_id


class RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if current := request_id.get():
            record.request_id = current
        return True


def configure_logging(level: str, *, with_process: bool = False) -> None:
    """Send the logs of the service, uvicorn and warnings through one JSON handler.

    `with_process` says in each line which process it is from.
    """
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}" + ("{process}" if with_process else ""),
            style="{",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn repeats each message with colours
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its plug-ins
    logging.captureWarnings(True)
