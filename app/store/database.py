"""SQLite or PostgreSQL: how to connect, and migrations."""

import logging
import sqlite3
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

MIGRATIONS_FOLDER = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_SECONDS = 20  # chosen, not tuned: longer than any transaction here, shorter than a client waits


class Database:
    """Transactions of two kinds: `read()`, and `write()`, which no other writer can come between."""

    def __init__(self, url: URL) -> None:
        self.engine = _connect(url)
        self.read = sessionmaker(self.engine, expire_on_commit=False)
        self.write: sessionmaker[Session] = sessionmaker(
            self.engine.execution_options(write=True), expire_on_commit=False
        )

    def migrate(self) -> None:
        """Bring the tables up to date. Not safe against itself: the caller holds a lock."""
        logging.getLogger("alembic").setLevel(logging.WARNING)  # first: it logs while it is imported
        from alembic import command  # noqa: PLC0415  # only those who keep items pay for it
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS_FOLDER).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        with self.engine.execution_options(write=True).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def database_url(url: str | None, data_dir: Path) -> URL:
    """The URL to connect to; by default a SQLite file in the data folder."""
    if url is None:
        return URL.create("sqlite", database=str(data_dir.resolve() / "wardrobe.sqlite3"))
    made = make_url(url)
    return made.set(drivername="postgresql+psycopg") if made.drivername in ("postgres", "postgresql") else made


def _connect(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)  # the server may have been restarted
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # sqlite3 would begin transactions too late; `_begin_sqlite` does it
    connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_SECONDS}")
    connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
    connection.execute("PRAGMA synchronous = FULL")  # what was answered with 201 survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what was removed is not to be found in the file


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and then writes fails at once, busy timeout or not, if another one wrote meanwhile.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
