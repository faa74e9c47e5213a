"""What every answer says to browsers: take it for what it is, show it in no frame, load nothing it does not name."""

import base64
import hashlib
import re

import httpx
import pytest


def directives(response: httpx.Response) -> dict[str, str]:
    """The Content-Security-Policy by directive."""
    found = (it.strip().partition(" ") for it in response.headers["Content-Security-Policy"].split(";"))
    return {name: sources for name, _, sources in found}


@pytest.mark.parametrize(
    "path", ["/models", "/predict", "/nowhere", "/metrics", "/models/fashion-mnist/report", "/docs"]
)
async def test_every_answer_has_them(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    policy = directives(response)
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")


async def test_the_page_of_the_api_runs_swagger_ui_and_its_own_script(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")

    (script,) = re.findall("<script>(.*?)</script>", response.text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = directives(response)
    assert response.headers["Content-Type"].startswith("text/html")
    assert "'/openapi.json'" in script
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"


async def test_all_that_the_page_of_the_api_loads_is_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")

    loaded = re.findall('(?:src|href)="(.*?)"', page.text)
    answers = [await client.get(path) for path in loaded]
    assert [answer.headers["Content-Type"].partition(";")[0] for answer in answers] == [
        "text/css",
        "image/png",
        "text/javascript",
    ]
    assert not re.search("https?://", page.text)
