"""Tests that run in the clients' own environment: see tests/test_stock_clients.py."""

import os
from pathlib import Path

import pytest

PICTURES_FOLDER = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def url() -> str:
    """Address of the running service."""
    return os.environ["SERVICE_URL"]


@pytest.fixture(scope="session")
def bag() -> bytes:
    return (PICTURES_FOLDER / "bag.png").read_bytes()
