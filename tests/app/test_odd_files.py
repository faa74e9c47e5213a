"""Odd files get the documented answer, alone and beside a good one, and never a 500."""

import httpx
import pytest

from tests.app.service import parts, problem_of
from tests.odd_files import ODD_FILES, OddFile


@pytest.mark.parametrize("odd", ODD_FILES.values(), ids=ODD_FILES.keys())
async def test_an_odd_file_gets_the_documented_answer(client: httpx.AsyncClient, odd: OddFile) -> None:
    response = await client.post("/predict", content=odd.make())

    if odd.slug:
        problem_of(response, odd.status, odd.slug)
    else:
        assert response.status_code == 200, response.text
        image = response.json()["predictions"][0]["image"]
        assert (image["width"], image["height"]) == odd.size
        assert image["notes"] == odd.notes


async def test_odd_files_do_not_affect_a_good_one(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    odd_files = [odd for name, odd in ODD_FILES.items() if name != "50 MB"]  # that one is refused with its request

    response = await client.post("/predict", files=parts(*[odd.make() for odd in odd_files], pictures["Bag"]))

    assert response.status_code == 200
    *predictions, bag = response.json()["predictions"]
    assert [p["error"]["type"] if "error" in p else None for p in predictions] == [
        f"urn:wardrobe:{odd.slug}" if odd.slug else None for odd in odd_files
    ]
    assert bag["label"] == "Bag"
