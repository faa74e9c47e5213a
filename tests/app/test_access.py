"""API keys: what is open, what is not, and what the service refuses to start as."""

import hashlib
from collections.abc import AsyncGenerator

import httpx
import pytest
from pydantic import ValidationError

from app.serve import serve
from app.settings import Settings
from tests.app.service import problem_of, running, wait_for

KEYS = ("first-key", "clé")


@pytest.fixture(scope="module")
async def locked(settings: Settings) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A ready service with two keys."""
    digests = tuple(hashlib.sha256(key.encode("latin-1")).hexdigest() for key in KEYS)
    async with running(settings.model_copy(update={"api_key_sha256": digests})) as client:
        await wait_for(client, "/health/ready")
        yield client


def bearer(key: str, scheme: str = "Bearer") -> dict[str, bytes]:
    return {"Authorization": f"{scheme} {key}".encode("latin-1")}


@pytest.mark.parametrize("path", ["/models", "/models/fashion-mnist", "/metrics", "/items", "/nowhere"])
async def test_everything_else_wants_a_key(locked: httpx.AsyncClient, path: str) -> None:
    response = await locked.get(path)

    problem_of(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_picture_without_a_key_is_not_looked_at(locked: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    problem_of(await locked.post("/predict", content=pictures["Bag"]), 401, "unauthorized")

    metrics = (await locked.get("/metrics", headers=bearer(KEYS[0]))).text
    assert "wardrobe_batch_size_count" not in metrics


async def test_the_description_names_the_key_and_the_401(locked: httpx.AsyncClient) -> None:
    description = (await locked.get("/openapi.json")).json()

    ((name, scheme),) = description["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    wanting = {
        path
        for path, methods in description["paths"].items()
        for operation in methods.values()
        if operation.get("security") == [{name: []}] and "401" in operation["responses"]
    }
    assert set(description["paths"]) - wanting == {"/health/live", "/health/ready"}


async def test_without_keys_the_description_names_none(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).text

    assert "securitySchemes" not in description
    assert '"401"' not in description


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/", "/web/icon.svg", "/docs", "/docs/swagger-ui.css"]
)
async def test_probes_and_what_asks_for_the_key_need_none(locked: httpx.AsyncClient, path: str) -> None:
    assert (await locked.get(path)).status_code == 200


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_each_key_opens(locked: httpx.AsyncClient, pictures: dict[str, bytes], key: str, scheme: str) -> None:
    response = await locked.post("/predict", content=pictures["Bag"], headers=bearer(key, scheme))

    assert response.status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer first-key-and-more",
        "Basic first-key",
        "first-key",
        "Bearer first-key first-key",
        "Bearer " + hashlib.sha256(b"first-key").hexdigest(),
    ],
)
async def test_what_is_no_key_does_not_open(locked: httpx.AsyncClient, value: str) -> None:
    """The digest in the settings is none either."""
    problem_of(await locked.get("/models", headers={"Authorization": value}), 401, "unauthorized")


@pytest.mark.parametrize(
    "path", ["/health", "/healthy", "//health/live", "/HEALTH/live", "/docsx", "//docs", "/openapi.json/"]
)
async def test_no_path_only_looks_open(locked: httpx.AsyncClient, path: str) -> None:
    response = await locked.get(httpx.URL(scheme="http", host="wardrobe", raw_path=path.encode()))

    assert response.status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_no_key_is_needed(host: str) -> None:
    assert Settings(host=host).api_key_sha256 == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "wardrobe.example", ""])
def test_elsewhere_it_wants_keys_or_to_be_told(host: str) -> None:
    digest = hashlib.sha256(b"key").hexdigest()

    with pytest.raises(ValidationError, match=r"WARDROBE_API_KEY_SHA256, or WARDROBE_ALLOW_ANONYMOUS=true"):
        Settings(host=host)
    assert Settings(host=host, allow_anonymous=True)
    assert Settings(host=host, api_key_sha256=(digest,))


@pytest.mark.parametrize("published", ["127.0.0.1", "::1", "localhost"])
def test_published_on_loopback_no_key_is_needed_and_items_are_kept(published: str) -> None:
    assert Settings(host="0.0.0.0", published_host=published, storage="auto").keeps_items


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_published_elsewhere_it_wants_keys_wherever_it_listens(host: str) -> None:
    with pytest.raises(ValidationError, match=r"'192\.168\.1\.5' can be reached by others: make a key with"):
        Settings(host=host, published_host="192.168.1.5")


def test_several_digests_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in ("a", "b")]
    monkeypatch.setenv("WARDROBE_API_KEY_SHA256", ", ".join(digests) + ",")

    assert Settings().api_key_sha256 == tuple(digests)


@pytest.mark.parametrize("value", ["secret", "AB" * 32, "ab" * 31])
def test_what_is_no_digest_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="api_key_sha256"):
        Settings(api_key_sha256=value)


def test_a_key_in_place_of_its_digest_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message goes to a log that others read."""
    monkeypatch.setenv("WARDROBE_API_KEY_SHA256", "my-own-secret")

    with pytest.raises(SystemExit, match="2"):
        serve()

    shown = capsys.readouterr().err
    assert "WARDROBE_API_KEY_SHA256" in shown
    assert "my-own-secret" not in shown
