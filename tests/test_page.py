"""The page in a real browser against a real service: sorted, corrected, kept, moved to another service."""

import base64
import hashlib
import re
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.artifact import Artifact
from tests.conftest import PICTURES_FOLDER
from tests.odd_files import HTML
from tests.process import serving, small_service
from tests.tiny_wardrobe import plain

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
expect = sync_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_MILLISECONDS = 30_000  # for a busy machine
KEY = "a key for the test"

SIDE_PIXELS = 80  # larger than a thumbnail of Fashion-MNIST: these go to the made-up wardrobe
SURE = [plain(255 - shade, 0, 0, side_pixels=SIDE_PIXELS) for shade in range(8)]  # dress
UNSURE = [plain(200, 190 - shade, 0, side_pixels=SIDE_PIXELS) for shade in range(8)]  # dress or shirt
NO_GARMENT = plain(2, 2, 3, side_pixels=SIDE_PIXELS)
DRAWINGS = [path.read_bytes() for path in sorted(PICTURES_FOLDER.glob("*.png")) if path.name != "sunset.png"]
BROKEN = [HTML, SURE[0][:60], b""]
PILE = [*SURE, *UNSURE, NO_GARMENT, *DRAWINGS, *BROKEN]


@pytest.fixture(scope="module")
def browser() -> Generator["Browser", None, None]:
    """Closed after this module: while it is open, no other test can run an event loop."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser") -> Generator["Page", None, None]:
    """Of a desktop computer."""
    with _page(browser, viewport={"width": 1280, "height": 900}) as page:
        yield page


@pytest.fixture
def phone(browser: "Browser") -> Generator["Page", None, None]:
    with _page(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        yield page


@contextmanager
def _page(browser: "Browser", **device: Any) -> Generator["Page", None, None]:
    """A session of its own. A mistake in the page's scripts, or what its policy forbids, fails the test."""
    context = browser.new_context(reduced_motion="reduce", **device)
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    page = context.new_page()
    mistakes: list[str] = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on("console", lambda message: mistakes.append(message.text) if "Security Policy" in message.text else None)
    yield page
    context.close()
    assert mistakes == []


@pytest.fixture(scope="module")
def service(
    two_models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[subprocess.Popen[bytes], httpx.Client], None, None]:
    """One that keeps what it is sent, up to a megabyte each."""
    folder = tmp_path_factory.mktemp("page")
    with serving(folder / "log", **_settings(two_models_dir, folder), MAX_UPLOAD_BYTES="1000000") as service:
        yield service


@pytest.fixture
def client(service: tuple[subprocess.Popen[bytes], httpx.Client]) -> httpx.Client:
    return service[1]


@pytest.fixture
def process(service: tuple[subprocess.Popen[bytes], httpx.Client]) -> Generator[subprocess.Popen[bytes], None, None]:
    """Of that service. A test may stop it, so that it does not answer; afterwards it goes on."""
    yield service[0]
    service[0].send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def locked_client(
    two_models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[httpx.Client, None, None]:
    """Of a service that wants a key, has room for one picture at a time, and an empty wardrobe."""
    folder = tmp_path_factory.mktemp("locked")
    limits = {"MAX_QUEUE_IMAGES": "1", "MAX_IMAGES_PER_REQUEST": "1"}
    key = {"API_KEY_SHA256": hashlib.sha256(KEY.encode()).hexdigest()}
    with serving(folder / "log", **_settings(two_models_dir, folder), **limits, **key) as (_, client):
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def _settings(models_dir: Path, folder: Path) -> dict[str, str]:
    return {"MODELS_DIR": str(models_dir), "NUM_THREADS": "1", "STORAGE": "on", "DATA_DIR": str(folder / "data")}


@pytest.fixture
def filled(client: httpx.Client, page: "Page") -> "Page":
    """The page of a wardrobe with two dresses and three pictures in the tray."""
    fill(client)
    page.goto(str(client.base_url))
    expect(page.locator(".review [data-id]")).to_have_count(3)
    return page


def fill(client: httpx.Client) -> None:
    old = [{"id": item["id"]} for item in items_of(client)]
    if old:
        client.post("/items/delete", json={"items": old}).raise_for_status()
    for index, content in enumerate([*SURE[:2], *UNSURE[:3]]):
        client.post("/items", files={"file": (f"{index}.png", content)}).raise_for_status()


def items_of(client: httpx.Client) -> list[dict[str, Any]]:
    page: dict[str, Any] = client.get("/items?limit=500&sort=filename").raise_for_status().json()
    return sorted(page["items"], key=lambda item: item["id"])


def drop(page: "Page", contents: list[bytes] | dict[str, bytes]) -> None:
    """What a browser does when a person drops files, which may have names."""
    named = contents if isinstance(contents, dict) else {f"{index}.png": it for index, it in enumerate(contents)}
    files = [(name, base64.b64encode(content).decode()) for name, content in named.items()]
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, base64] of files) {
                const bytes = Uint8Array.from(atob(base64), character => character.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            return transfer;
        }""",
        files,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def drawer_count(page: "Page", title: str) -> "Locator":
    return page.get_by_role("navigation", name="Drawers").get_by_role("link", name=title).locator(".number")


def press_until(page: "Page", keys: str, wanted: "Locator") -> None:
    """Press a key until the focus is on the wanted element."""
    for _ in range(80):
        if wanted.evaluate("node => node === document.activeElement"):
            return
        page.keyboard.press(keys)
    pytest.fail(f"{keys} does not lead to {wanted}")


def test_a_pile_is_sorted_corrected_kept_and_moved_to_another_service(
    page: "Page", client: httpx.Client, locked_client: httpx.Client, tmp_path: Path
) -> None:
    page.goto(str(client.base_url))
    expect(page.get_by_role("heading", name="Photograph your clothes. They sort themselves.")).to_be_visible()

    drop(page, PILE)

    assert len(PILE) == 30
    expect(page.get_by_text("27 pictures sorted. 3 files could not be sorted.")).to_be_visible()
    expect(drawer_count(page, "All")).to_have_text("27 pictures")
    expect(drawer_count(page, "To check")).to_have_text("8 pictures")
    expect(drawer_count(page, "Set aside")).to_have_text("1 picture")
    expect(drawer_count(page, "Dresses")).to_have_text("9 pictures")  # and the drawing
    expect(drawer_count(page, "Bags")).to_have_text("1 picture")
    page.locator("summary", has_text="3 files could not be sorted").click()
    expect(page.get_by_text("The file is empty (0 bytes).")).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()

    for number in (7, 6, 5):
        page.locator(".review").get_by_role("button", name="shirt", exact=True).first.click()
        expect(drawer_count(page, "To check")).to_have_text(f"{number} pictures")
    page.get_by_role("status").get_by_role("button", name="Undo").click()
    expect(drawer_count(page, "To check")).to_have_text("6 pictures")
    assert sum(item["corrected"] for item in items_of(client)) == 2

    page.reload()
    expect(drawer_count(page, "All")).to_have_text("27 pictures")
    expect(drawer_count(page, "To check")).to_have_text("6 pictures")

    page.get_by_role("button", name="Menu").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save everything (ZIP)").click()
    download.value.save_as(tmp_path / "wardrobe.zip")
    page.goto(str(locked_client.base_url))
    page.get_by_label("Key", exact=True).fill("not the key")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("That was not the key.")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("heading", name="Photograph your clothes.")).to_be_visible()
    page.set_input_files("#zip", tmp_path / "wardrobe.zip")
    expect(page.get_by_text("27 pictures brought in.")).to_be_visible()
    expect(drawer_count(page, "To check")).to_have_text("6 pictures")
    assert items_of(locked_client) == items_of(client)
    # <img> cannot send the key: the pictures are fetched and shown from memory.
    expect(page.locator(".dresses img").first).to_have_attribute("src", re.compile("^blob:"))
    # Three at a time are too many for a queue of one: the page waits and sends again.
    drop(page, [plain(0, 0, 255 - shade, side_pixels=SIDE_PIXELS) for shade in range(6)])
    expect(page.get_by_text("6 pictures sorted.")).to_be_visible()


def test_who_has_no_key_is_told_in_plain_words_and_may_try_again(page: "Page", locked_client: httpx.Client) -> None:
    page.goto(str(locked_client.base_url))
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("This wardrobe opens with its key alone.")

    page.get_by_role("button", name="Try again").click()

    expect(page.get_by_label("Key", exact=True)).to_be_focused()


def test_everything_can_be_done_by_keyboard(filled: "Page", client: httpx.Client) -> None:
    page = filled
    first_choice = page.locator(".review .choice").first

    press_until(page, "Tab", first_choice)
    page.keyboard.press("Enter")
    expect(drawer_count(page, "To check")).to_have_text("2 pictures")
    press_until(page, "Tab", page.locator(".dresses [data-role=open]").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".dresses [data-role=open]").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".dresses [data-role=open]").nth(1)).to_be_focused()
    press_until(page, "Shift+Tab", page.locator(".dresses [data-role=tick]").first)
    page.keyboard.press("Space")
    press_until(page, "Tab", page.get_by_role("button", name="Move to …"))
    page.keyboard.press("Enter")
    press_until(page, "Tab", page.get_by_role("dialog").get_by_role("button", name="Outerwear"))
    page.keyboard.press("Enter")

    expect(drawer_count(page, "Outerwear")).to_have_text("1 picture")
    page.keyboard.press("Control+z")
    expect(drawer_count(page, "Outerwear")).to_have_text("0 pictures")
    assert sum(item["corrected"] for item in items_of(client)) == 1


def test_a_picture_is_dragged_into_a_drawer(filled: "Page") -> None:
    link = filled.get_by_role("navigation").get_by_role("link", name="Footwear")

    filled.locator(".dresses [data-id]").first.drag_to(link)

    expect(drawer_count(filled, "Footwear")).to_have_text("1 picture")


def test_many_are_selected_and_deleted_after_a_question(filled: "Page", client: httpx.Client) -> None:
    filled.get_by_role("button", name="Select", exact=True).click()
    filled.locator(".review").get_by_role("button", name="Select all").click()
    filled.get_by_role("button", name="Delete").click()
    assert len(items_of(client)) == 5

    filled.get_by_role("dialog").get_by_role("button", name="Delete").click()

    expect(filled.get_by_text("3 pictures deleted.")).to_be_visible()
    assert len(items_of(client)) == 2


def test_many_get_a_name_of_ones_own_which_is_offered_from_then_on(filled: "Page", client: httpx.Client) -> None:
    filled.locator(".review [data-role=tick]").nth(0).check()
    filled.locator(".review [data-role=tick]").nth(1).check()
    filled.get_by_role("button", name="Move to …").click()
    where = filled.get_by_role("dialog", name="What are these 2, or where do they go?")
    where.get_by_text("Another name").click()
    expect(where.get_by_label("Name")).to_be_focused()
    where.get_by_label("Name").fill("gown")
    where.get_by_label("Drawer").select_option("dresses")
    where.get_by_role("button", name="Save").click()
    expect(drawer_count(filled, "Dresses")).to_have_text("4 pictures")

    filled.locator(".review .choice.other").click()
    filled.get_by_role("dialog").get_by_role("button", name="gown").click()

    expect(drawer_count(filled, "Dresses")).to_have_text("5 pictures")
    assert sum(item["label"] == "gown" for item in items_of(client)) == 3


def test_of_the_files_of_a_phone_the_pictures_are_taken_and_a_saved_wardrobe_is_brought_in(
    filled: "Page", client: httpx.Client
) -> None:
    drop(filled, {"IMG_1.HEIC": SURE[5], "IMG_1.MOV": b"film", "IMG_1.AAE": b"<plist/>", "large.png": bytes(2**21)})

    expect(
        filled.get_by_text("1 picture sorted. 1 file could not be sorted. 2 files are no pictures, and left out.")
    ).to_be_visible()
    filled.locator("summary", has_text="1 file could not be sorted").click()
    expect(filled.get_by_text("The file has 2.1 MB; at most 1.0 MB are taken.")).to_be_visible()
    drop(filled, {"wardrobe.zip": client.get("/items/export.zip").content})
    expect(filled.get_by_text("6 pictures were here already.")).to_be_visible()
    drop(filled, {"notes.txt": b"jeans"})
    expect(filled.get_by_text("1 file is no picture, and left out.")).to_be_visible()


def test_the_filter_is_in_sight_wherever_it_is_opened(filled: "Page", client: httpx.Client) -> None:
    drop(filled, DRAWINGS)  # enough to scroll
    expect(filled.get_by_text("10 pictures sorted.")).to_be_visible()
    filled.evaluate("scrollTo(0, document.body.scrollHeight)")

    filled.get_by_role("button", name="Filter").click()

    expect(filled.get_by_label("Sorted by")).to_be_in_viewport()


def test_what_was_changed_elsewhere_meanwhile_is_shown_and_not_overwritten(
    filled: "Page", client: httpx.Client
) -> None:
    card = filled.locator(".review [data-id]").first
    item_id = card.get_attribute("data-id")
    client.patch(f"/items/{item_id}", json={"drawer": "bags"}).raise_for_status()

    card.locator(".choice").first.click()

    expect(filled.get_by_text("was changed elsewhere meanwhile")).to_be_visible()
    expect(filled.locator(f".bags [data-id='{item_id}']")).to_be_visible()
    assert client.get(f"/items/{item_id}").json()["drawer"] == "bags"


def test_search_shows_what_fits_also_of_what_arrives_meanwhile(
    filled: "Page", client: httpx.Client, process: subprocess.Popen[bytes]
) -> None:
    process.send_signal(signal.SIGSTOP)
    drop(filled, SURE[5:])
    with filled.expect_request("**/items?q=1.png*"):
        filled.get_by_role("searchbox", name="Search").fill("1.png")
    process.send_signal(signal.SIGCONT)

    expect(filled.get_by_text("3 pictures sorted.")).to_be_visible()
    expect(filled.locator("#sections [data-id]")).to_have_count(2)
    expect(drawer_count(filled, "All")).to_have_text("8 pictures")


def test_what_arrives_while_the_tray_is_looked_at_comes_behind(filled: "Page") -> None:
    """A picture that moves away under the finger gets another one's label."""
    tray = filled.locator(".review [data-id]")
    there = tray.evaluate_all("cards => cards.map(card => card.dataset.id)")

    drop(filled, UNSURE[3:])

    expect(tray).to_have_count(8)
    arrived = tray.evaluate_all("cards => cards.map(card => card.dataset.id)")
    expect(filled.get_by_text("5 pictures sorted.")).to_be_visible()
    filled.reload()
    expect(tray).to_have_count(8)
    again = tray.evaluate_all("cards => cards.map(card => card.dataset.id)")
    assert arrived[:3] == again[:3] == there


def test_cancelled_pictures_are_not_sent(
    filled: "Page", client: httpx.Client, process: subprocess.Popen[bytes]
) -> None:
    process.send_signal(signal.SIGSTOP)
    drop(filled, [*UNSURE[3:], NO_GARMENT, *DRAWINGS])  # three are sent at a time; the others wait
    expect(filled.get_by_text("0 of 16.")).to_be_visible()
    filled.get_by_role("button", name="Cancel 15.png").click()
    expect(filled.get_by_text("0 of 15.")).to_be_visible()

    filled.get_by_role("button", name="Cancel", exact=True).click()
    expect(filled.get_by_text("Sorting")).to_be_hidden()
    process.send_signal(signal.SIGCONT)
    drop(filled, SURE[7:])

    expect(filled.get_by_text("1 picture sorted.")).to_be_visible()
    assert not {item["filename"] for item in items_of(client)} & {f"{number}.png" for number in range(5, 16)}


def test_undo_that_did_not_reach_the_service_can_be_tried_again(filled: "Page") -> None:
    filled.locator(".review .choice").first.click()
    expect(drawer_count(filled, "To check")).to_have_text("2 pictures")
    filled.context.set_offline(True)
    filled.keyboard.press("Control+z")
    expect(filled.get_by_text("The service does not answer.")).to_be_visible()
    filled.context.set_offline(False)

    filled.keyboard.press("Control+z")

    expect(drawer_count(filled, "To check")).to_have_text("3 pictures")


def test_one_picture_tells_what_the_model_thinks(filled: "Page") -> None:
    filled.locator(".dresses [data-role=open]").first.click()
    dialog = filled.get_by_role("dialog")

    expect(dialog.get_by_role("row", name="dress")).to_contain_text("96 %")
    dialog.get_by_role("button", name="What the model saw").click()
    expect(dialog.get_by_text("All that the network gets of it")).to_be_visible()
    seen = dialog.get_by_role("img", name="dress, as the model got it")
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [8, 8]
    dialog.get_by_role("button", name="Heat map").click()
    expect(dialog.locator("img.heat")).to_be_visible()
    dialog.get_by_role("button", name="How long does it take?").click()
    expect(dialog.get_by_text("Looking at it")).to_be_visible()
    dialog.get_by_role("button", name="Something else …").click()
    where = filled.get_by_role("dialog").last
    where.get_by_text("Another name").click()
    where.get_by_label("Name").fill("gown")
    where.get_by_label("Drawer").select_option("dresses")
    where.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("heading", name="gown")).to_be_visible()
    expect(dialog.get_by_text("sorted by you")).to_be_visible()


def test_a_heat_map_is_asked_for_once_and_shown_only_where_it_belongs(
    filled: "Page", process: subprocess.Popen[bytes]
) -> None:
    page = filled
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/explanation" in request.url else None)
    page.locator(".dresses [data-role=open]").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Heat map").click()
    expect(dialog.get_by_text("The redder, the more speaks for")).to_be_visible()
    drop(page, SURE[4:])
    expect(page.get_by_text("4 pictures sorted.")).to_be_visible()
    assert len(asked) == 1

    process.send_signal(signal.SIGSTOP)
    with page.expect_response(re.compile("/explanation.*shirt")):
        dialog.get_by_label("Evidence for").select_option("shirt")
        dialog.get_by_role("button", name="Picture", exact=True).click()
        process.send_signal(signal.SIGCONT)

    dialog.get_by_role("button", name="What the model saw").click()
    expect(dialog.get_by_text("All that the network gets of it")).to_be_visible()
    expect(dialog.get_by_text("The redder, the more speaks for")).to_have_count(0)
    assert len(asked) == 2


def test_a_garment_photographed_twice_is_pointed_out_and_one_is_kept_or_both(
    filled: "Page", client: httpx.Client
) -> None:
    """At one tap, and a picture that was removed by it comes back, with what was said of it."""
    twins = [plain(255 - shade, 0, 0, side_pixels=SIDE_PIXELS + 1) for shade in range(2)]
    drop(filled, twins)
    question = filled.get_by_role("region", name="Twice?")
    expect(question.get_by_role("listitem")).to_have_count(2)
    client.patch(f"/items/{hashlib.sha256(twins[1]).hexdigest()}", json={"label": "shirt"}).raise_for_status()
    filled.reload()

    question.get_by_role("button", name="Remove the newer picture: shirt, 1.png").click()
    expect(question.get_by_role("listitem")).to_have_count(1)
    assert len(items_of(client)) == 6
    filled.get_by_role("status").get_by_role("button", name="Undo").click()
    expect(question.get_by_role("listitem")).to_have_count(2)
    assert [item["filename"] for item in items_of(client) if item["label"] == "shirt"] == ["1.png"]
    for number in (1, 0):
        question.get_by_role("button", name="Keep both").first.click()
        expect(question.get_by_role("listitem")).to_have_count(number)

    assert len(items_of(client)) == 7
    assert [item["possible_duplicate_of"] for item in items_of(client)] == [None] * 7


def test_more_like_one_picture_are_a_tap_away(filled: "Page") -> None:
    filled.locator(".review [data-role=open]").first.click()
    dialog = filled.get_by_role("dialog")
    alike = dialog.get_by_role("heading", name="More like this").locator("..").get_by_role("button")
    expect(alike).to_have_count(2)  # the dresses are of another colour

    alike.first.click()

    expect(dialog.get_by_text(re.compile(r"^[34]\.png$"))).to_be_visible()  # of the same red


def test_while_the_storage_cannot_be_had_nothing_is_given_up(page: "Page", artifact: Artifact, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.write_text("not a folder")
    with small_service(artifact, tmp_path / "log", STORAGE="on", DATA_DIR=str(data_dir)) as (_, client):
        other = page.context.new_page()
        for each in (page, other):
            each.goto(str(client.base_url))
        other.get_by_role("button", name="Sort without keeping").click()
        expect(other.get_by_text("Nothing is kept.")).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text("Items cannot be kept now")

        data_dir.unlink()
        page.get_by_role("button", name="Try again").click()
        drop(page, SURE[:1])

        expect(page.get_by_text("1 picture sorted.")).to_be_visible()
        assert len(items_of(client)) == 1


def test_on_a_phone_a_photo_is_taken_sorted_and_corrected(phone: "Page", client: httpx.Client) -> None:
    fill(client)
    phone.goto(str(client.base_url))

    with phone.expect_file_chooser() as chooser:
        phone.get_by_role("button", name="Take a photo").tap()
    chooser.value.set_files({"name": "photo.png", "mimeType": "image/png", "buffer": UNSURE[7]})
    expect(drawer_count(phone, "To check")).to_have_text("4 pictures")
    phone.locator(".review [data-role=open]").last.tap()
    phone.get_by_role("dialog").get_by_role("button", name="shirt", exact=True).tap()
    expect(phone.get_by_text("sorted by you")).to_be_visible()
    phone.get_by_role("dialog").get_by_role("button", name="Close").tap()

    expect(drawer_count(phone, "Tops")).to_have_text("1 picture")
    assert [item["filename"] for item in items_of(client) if item["corrected"]] == ["photo.png"]
    width = phone.evaluate("document.documentElement.scrollWidth")
    assert width == 390  # nothing sticks out to the side


def test_without_storage_pictures_are_sorted_and_the_page_says_that_nothing_is_kept(
    page: "Page", service_url: str
) -> None:
    page.goto(service_url)
    expect(page.get_by_text("Nothing is kept.")).to_be_visible()

    drop(page, DRAWINGS)

    expect(drawer_count(page, "All")).to_have_text("10 pictures")
    page.locator(".bags [data-role=open]").click()
    page.get_by_role("dialog").get_by_role("button", name="Something else …").click()
    page.get_by_role("dialog").last.get_by_role("button", name="Other").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(drawer_count(page, "Other")).to_have_text("1 picture")
    page.get_by_role("button", name="Undo").first.click()
    expect(drawer_count(page, "Bags")).to_have_text("1 picture")


def test_a_class_of_ones_own_has_its_drawer_and_can_be_chosen(
    page: "Page", two_models_dir: Path, tmp_path: Path
) -> None:
    """The page has no list of labels: one that only this model's card knows is shown, offered and explained."""
    models_dir = shutil.copytree(two_models_dir, tmp_path / "models")
    card_path = models_dir / "wardrobe" / "1" / "card.json"
    card = card_path.read_text().replace('"label":"longsleeve","group":"other"', '"label":"poncho","group":"outerwear"')
    card_path.write_text(card)
    sure, unsure = plain(0, 0, 255, side_pixels=SIDE_PIXELS), plain(200, 0, 190, side_pixels=SIDE_PIXELS)
    with serving(tmp_path / "log", **_settings(models_dir, tmp_path)) as (_, client):
        page.goto(str(client.base_url))

        drop(page, [sure, unsure])

        expect(page.get_by_text("2 pictures sorted.")).to_be_visible()
        expect(drawer_count(page, "Outerwear")).to_have_text("1 picture")
        expect(page.locator(".outerwear .label")).to_have_text("poncho")
        page.locator(".review").get_by_role("button", name="poncho", exact=True).click()
        expect(drawer_count(page, "Outerwear")).to_have_text("2 pictures")
        page.locator(".outerwear [data-role=open]").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Heat map").click()
        expect(page.get_by_role("dialog").locator("img.heat")).to_be_visible()
        page.goto(f"{client.base_url}/web/models.html#wardrobe")
        expect(page.get_by_text("poncho").first).to_be_visible()


@pytest.mark.parametrize("model", ["wardrobe", "fashion-mnist"])
def test_the_model_page_shows_the_card(page: "Page", service_url: str, model: str) -> None:
    card = httpx.get(f"{service_url}/models/{model}").json()
    test = card["metrics"]["test"]

    page.goto(f"{service_url}/web/models.html#{model}")

    expect(page.get_by_role("heading", level=1)).to_have_text(f"{model}, version {card['version']}")
    expect(page.get_by_text(f"{test['accuracy']:.1%}".replace("%", " %"), exact=True)).to_be_visible()
    matrix = page.get_by_role("region", name="Confusion matrix")
    cells = matrix.locator("tbody td").all_inner_texts()
    assert cells == [str(number) for row in test["confusion_matrix"] for number in row]
    for limit in card["limits"]:
        expect(page.get_by_text(limit)).to_be_visible()


@pytest.mark.parametrize(("device", "scheme"), [("page", "light"), ("page", "dark"), ("phone", "light")])
def test_axe_finds_nothing_to_mend(
    request: pytest.FixtureRequest, client: httpx.Client, service_url: str, device: str, scheme: Any
) -> None:
    """https://github.com/dequelabs/axe-core, all its rules, on what a person meets."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it brings axe-core").Axe()
    page = request.getfixturevalue(device)
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    fill(client)
    page.goto(str(client.base_url))
    expect(page.locator(".review [data-id]")).to_have_count(3)

    def violations() -> list[tuple[str, str]]:
        found = axe.run(page).response["violations"]
        return [(violation["id"], node["html"]) for violation in found for node in violation["nodes"]]

    assert violations() == []
    page.get_by_role("button", name="Filter").click()
    page.locator(".review .choice.other").first.click()
    assert violations() == []
    page.keyboard.press("Escape")
    page.locator(".dresses [data-role=open]").first.click()
    assert violations() == []
    page.keyboard.press("Escape")
    page.locator(".dresses [data-role=tick]").first.check()
    drop(page, [b"not a picture"])
    page.locator("summary", has_text="1 file could not be sorted").click()
    assert violations() == []
    page.goto(service_url)
    expect(page.get_by_role("heading", name="Photograph your clothes.")).to_be_visible()
    assert violations() == []
    page.goto(f"{service_url}/web/models.html")
    expect(page.get_by_role("heading", name="What it mistakes for what")).to_be_visible()
    assert violations() == []


def test_the_page_of_the_api_is_drawn_takes_a_key_and_asks_nobody_but_the_service(
    page: "Page", locked_client: httpx.Client
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    page.goto(f"{locked_client.base_url}/docs")

    expect(page.get_by_role("button", name="POST /predict Classify images of clothes")).to_be_visible()
    page.get_by_role("button", name="Authorize").first.click()
    page.get_by_role("textbox").fill(KEY)
    page.get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").last.click()
    page.get_by_role("button", name="GET /models The models that are there").click()
    page.get_by_role("button", name="Try it out").click()
    with page.expect_response("**/models") as response:
        page.get_by_role("button", name="Execute").click()
    assert response.value.status == 200
    assert len(asked) >= 5  # the page, its script and style, the description, the models
    assert all(httpx.URL(url).netloc == locked_client.base_url.netloc for url in asked)


@pytest.mark.parametrize("path", ["/", "/web/models.html"])
def test_the_page_may_load_and_run_only_what_the_service_has(service_url: str, path: str) -> None:
    response = httpx.get(service_url + path)

    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "path", ["/web/../main.py", "/web/%2e%2e/main.py", "/web/..%2fmain.py", "/web/", "/web/none.js"]
)
def test_nothing_but_the_pages_own_files_is_served(service_url: str, path: str) -> None:
    assert httpx.get(service_url + path).status_code == 404


def test_the_files_of_the_page_are_asked_for_again_only_when_they_changed(service_url: str) -> None:
    first = httpx.get(f"{service_url}/web/wardrobe.js")

    again = httpx.get(f"{service_url}/web/wardrobe.js", headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["Content-Type"].startswith(("text/javascript", "application/javascript"))
    assert (again.status_code, again.content) == (304, b"")
