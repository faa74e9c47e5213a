"""The service's settings, each an environment variable WARDROBE_<NAME>. The README's table is tested against them."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.images import DEFAULT_MAX_IMAGE_PIXELS

PACKAGE = Path(__file__).parent


def default_models_dir() -> Path:
    """`./models` if there is a model in it: the models of a clone, or those that were trained here.

    Else, wherever the command is given, what came with this installation: in a wheel it lies inside the package, in a
    clone and in the image beside it.
    """
    here, in_package = Path("models"), PACKAGE / "models"
    if any(here.glob("*/*/card.json")):
        return here
    return in_package if in_package.is_dir() else PACKAGE.parent / "models"


class Settings(BaseSettings):
    """Defaults suit phone photos on a small machine.

    Chosen, not tuned: 32 MiB hold eight photos of 12 megapixels, and 256 MiB eight such bodies; 128 images allow 100
    thumbnails in a request, and two such requests fit the queue; 30 s are a slow phone's upload; 25 s end before the
    30 s that docker-compose.yml gives.
    """

    model_config = SettingsConfigDict(env_prefix="WARDROBE_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path = Field(
        default_factory=default_models_dir,
        description="Folder with `<name>/<version>/` inside; without a model in `./models`: those of the installation.",
    )
    default_model: str = Field("wardrobe", description="The model that `model=auto` takes; ready means it is served.")
    thumbnail_model: str = Field(
        "fashion-mnist",
        description="The model that `model=auto` takes, where it is there, for grey pictures of at most 64x64 pixels.",
    )
    max_upload_bytes: int = Field(32 * 2**20, ge=1, description="Largest request body, in bytes.")
    max_image_pixels: int = Field(
        DEFAULT_MAX_IMAGE_PIXELS,
        ge=1,
        le=178_956_970,  # where Pillow refuses by itself
        description="Most pixels an image may declare, width times height.",
    )
    max_images_per_request: int = Field(128, ge=1, description="Most images in one request.")
    max_queue_images: int = Field(
        256, ge=1, description="Most images accepted and not yet answered, in each process; more get a 429."
    )
    max_pending_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="Most bytes of request bodies in memory, read or being read, in each process; more get a 429.",
    )
    max_batch_size: int = Field(
        32, ge=1, description="Most images in one forward pass; fewer where the start-up measurement gains no more."
    )
    engine: Literal["auto", "torchscript", "onnxruntime"] = Field(
        "auto", description="What runs the networks; `auto` measures at start-up and takes the fastest that agrees."
    )
    body_timeout_seconds: float = Field(
        30.0,
        gt=0,
        description="Longest time a request's headers may take to arrive, then its body, and a client may take nothing "
        "of an answer.",
    )
    predict_timeout_seconds: float = Field(30.0, gt=0, description="Longest time an accepted request may take.")
    shutdown_timeout_seconds: int = Field(25, ge=0, description="Longest time that SIGTERM waits for running requests.")
    workers: int = Field(1, ge=1, description="Processes that share the port, each with the models in its own memory.")
    num_threads: int = Field(
        0,
        ge=0,
        description="Images that each process works on at a time, each on one core; 0 shares out the CPU quota.",
    )
    api_key_sha256: Annotated[
        tuple[Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")], ...],
        NoDecode,
    ] = Field((), description="SHA-256 of each API key, separated by commas; none: everybody may ask.")
    allow_anonymous: bool = Field(
        False, description="Listen without API keys on other addresses than loopback as well."
    )
    published_host: str | None = Field(
        None,
        description="Address at which others reach the service, where that is not the one it listens on: that at which "
        "a container's port is published.",
    )
    host_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names, separated by commas, under which `/items` answers without API keys, beside localhost."
    )
    storage: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Keep pictures, predictions and corrections (`/items`); `auto`: unless strangers are let in.",
    )
    data_dir: Path = Field(Path("data/wardrobe"), description="Folder for what is kept; made when it is not there.")
    database_url: SecretStr | None = Field(
        None, description="`postgresql://...` for PostgreSQL; none: a SQLite file in the data folder."
    )
    max_stored_bytes: int = Field(20 * 2**30, ge=0, description="Most bytes of all pictures kept; more get a 507.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severity that is logged.")

    @field_validator("api_key_sha256", "host_names", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_stranger_by_accident(self) -> Self:
        if not (self.api_key_sha256 or self.allow_anonymous or self._is_of_this_machine_only):
            raise ValueError(
                f"host {self.published_host or self.host!r} can be reached by others: make a key with 'wardrobe key' "
                "('python -m app key') and set WARDROBE_API_KEY_SHA256, or WARDROBE_ALLOW_ANONYMOUS=true where "
                "something else keeps strangers away"
            )
        return self

    @property
    def keeps_items(self) -> bool:
        """A wardrobe that everybody may look into and empty has to be wanted."""
        strangers = self.allow_anonymous and not self.api_key_sha256 and not self._is_of_this_machine_only
        return self.storage == "on" or (self.storage == "auto" and not strangers)

    @property
    def _is_of_this_machine_only(self) -> bool:
        return _is_loopback(self.published_host or self.host)

    @model_validator(mode="after")
    def _queue_holds_a_request(self) -> Self:
        if self.max_queue_images < self.max_images_per_request:
            raise ValueError("max_queue_images must be at least max_images_per_request, or such a request never fits")
        return self

    @model_validator(mode="after")
    def _memory_holds_a_body(self) -> Self:
        if self.max_pending_bytes < self.max_upload_bytes:
            raise ValueError("max_pending_bytes must be at least max_upload_bytes, or such a body never fits")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
