"""Settings: from the environment, within bounds, and unchangeable."""

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_each_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"PORT": "8123", "MODELS_DIR": "elsewhere", "BODY_TIMEOUT_SECONDS": "0.5", "LOG_LEVEL": "DEBUG"}
    for name, value in values.items():
        monkeypatch.setenv(f"WARDROBE_{name}", value)

    settings = Settings()

    assert {name: str(getattr(settings, name.lower())) for name in values} == values


def test_defaults_are_valid_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WARDROBE_{name.upper()}", raising=False)

    settings = Settings()

    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    Settings.model_validate(settings.model_dump())  # pydantic does not check defaults by itself


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("max_upload_bytes", 0),
        ("max_image_pixels", 0),
        ("max_images_per_request", 0),
        ("max_batch_size", 0),
        ("body_timeout_seconds", 0),
        ("predict_timeout_seconds", -1),
        ("shutdown_timeout_seconds", -1),
        ("num_threads", -1),
        ("num_threads", "many"),
        ("log_level", "LOUD"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


def test_the_queue_must_hold_a_whole_request() -> None:
    assert Settings(max_queue_images=16, max_images_per_request=16).max_queue_images == 16
    with pytest.raises(ValidationError, match="max_queue_images must be at least max_images_per_request"):
        Settings(max_queue_images=15, max_images_per_request=16)


def test_settings_do_not_change_while_running() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
