"""Everything that can go wrong and is somebody's to mend.

WardrobeError
├── RequestError                     the request as a whole
│   ├── NoImageError
│   ├── TooManyImagesError
│   ├── BodyTooLargeError
│   ├── BodyTimeoutError
│   ├── HeadTooLargeError
│   ├── HeadTimeoutError
│   ├── MalformedMultipartError
│   ├── InvalidInferRequestError
│   ├── UnsupportedMediaTypeError
│   ├── UnsupportedContentEncodingError
│   ├── UnauthorizedError
│   ├── ModelNotFoundError
│   ├── ModelControlOffError
│   ├── ReportNotFoundError
│   ├── NoHeatMapError
│   ├── NoEmbeddingError
│   ├── ItemNotFoundError
│   ├── ItemChangedError
│   ├── NothingToUndoError
│   ├── UnknownLabelError
│   ├── InvalidCursorError
│   ├── NotAnExportError
│   ├── CrossSiteError
│   ├── UnknownHostError
│   └── StorageOffError
├── ImageError                       one picture; the others in the request are answered
│   ├── NoRoomError
│   ├── ImportedItemError
│   ├── EmptyImageError
│   ├── UnsupportedImageFormatError
│   ├── ImageTooLargeError
│   ├── ImageTooComplexError
│   └── UndecodableImageError
├── ServiceError                     neither the request nor the picture is at fault
│   ├── BusyError
│   ├── NotReadyError
│   ├── TooManyConnectionsError
│   └── StorageUnavailableError
└── ArtifactError                    a folder under models/ that must not be served

The text of each is a whole sentence for the person who caused it. `app.api.problems` maps each to an HTTP status.
"""

from collections.abc import Sequence
from pathlib import Path


class WardrobeError(Exception):
    """Base of every error below."""


class RequestError(WardrobeError):
    """The request as a whole cannot be answered."""


class NoImageError(RequestError):
    def __init__(self) -> None:
        super().__init__("No image was sent. Send one or more multipart parts named 'file', each with a file name.")


class TooManyImagesError(RequestError):
    def __init__(self, max_images: int) -> None:
        super().__init__(f"More than {max_images} images were sent. Send at most {max_images} in one request.")
        self.max_images = max_images


class BodyTooLargeError(RequestError):
    def __init__(self, max_bytes: int, num_bytes: int) -> None:
        super().__init__(
            f"The request body has {num_bytes} bytes or more; at most {max_bytes} are accepted. Send fewer or smaller "
            "images, or fewer items, in one request."
        )
        self.max_bytes = max_bytes


class BodyTimeoutError(RequestError):
    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(f"The request body did not arrive within {timeout_seconds:g} seconds. Send it again.")
        self.timeout_seconds = timeout_seconds


class HeadTooLargeError(RequestError):
    def __init__(self, max_bytes: int, max_headers: int) -> None:
        super().__init__(
            f"The request line and headers have more than {max_bytes} bytes or {max_headers} headers. Send fewer."
        )
        self.max_bytes = max_bytes


class HeadTimeoutError(RequestError):
    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(f"The request's headers did not arrive within {timeout_seconds:g} seconds. Send it again.")
        self.timeout_seconds = timeout_seconds


class MalformedMultipartError(RequestError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"The multipart body cannot be parsed: {reason.rstrip('.')}. Let an HTTP library build it.")


class InvalidInferRequestError(RequestError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"This is no inference request that can be answered: {reason}.")


class UnsupportedMediaTypeError(RequestError):
    def __init__(self, content_type: str) -> None:
        super().__init__(
            f"The Content-Type {content_type!r} is not accepted. Send multipart/form-data with parts named 'file', "
            "or the bytes of one image with its own type (for instance image/jpeg) or application/octet-stream."
        )


class UnsupportedContentEncodingError(RequestError):
    def __init__(self, content_encoding: str) -> None:
        super().__init__(f"The Content-Encoding {content_encoding!r} is not accepted. Send the body uncompressed.")


class UnauthorizedError(RequestError):
    def __init__(self) -> None:
        super().__init__("This service wants an API key. Send one of its keys: 'Authorization: Bearer <key>'.")


class ModelNotFoundError(RequestError):
    def __init__(self, name: str, version: int | None, known: Sequence[str]) -> None:
        wanted = name if version is None else f"{name}, version {version}"
        super().__init__(f"There is no model {wanted}. There is: {', '.join(known) or 'none'}.")


class ModelControlOffError(RequestError):
    def __init__(self) -> None:
        super().__init__(
            "Models are not loaded or unloaded by request here: the service serves what lies in its model folder."
        )


class ReportNotFoundError(RequestError):
    def __init__(self, name: str) -> None:
        super().__init__(f"The model {name} has no report that can be read.")


class NoHeatMapError(RequestError):
    def __init__(self, model: str) -> None:
        super().__init__(f"The model version {model} has no heat map: it was exported without one.")


class NoEmbeddingError(RequestError):
    def __init__(self, model: str) -> None:
        super().__init__(f"The model version {model} cannot tell what is similar: it was exported without embedding.")


class ItemNotFoundError(RequestError):
    def __init__(self, item_id: str) -> None:
        super().__init__(f"There is no item {item_id}. It was removed, or never added.")


class ItemChangedError(RequestError):
    def __init__(self, item_id: str, *, seen: int, revision: int) -> None:
        super().__init__(
            f"Item {item_id} was changed meanwhile: its revision is {revision}, and {seen} was sent. Look at it again."
        )
        self.revision = revision


class NothingToUndoError(RequestError):
    def __init__(self, item_id: str) -> None:
        super().__init__(f"Item {item_id} has no correction that could be taken back.")


class UnknownLabelError(RequestError):
    def __init__(self, label: str, known: Sequence[str]) -> None:
        super().__init__(
            f"The model does not know {label!r}, but {', '.join(known)}. A correction may have another label if it "
            "names the drawer as well."
        )


class InvalidCursorError(RequestError):
    def __init__(self) -> None:
        super().__init__(
            "The cursor is not one that this service gave for this order. Ask without it for the first page."
        )


class NotAnExportError(RequestError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"This is not an export of a wardrobe: {reason}. Send the file of GET /items/export.zip.")


class CrossSiteError(RequestError):
    def __init__(self, origin: str) -> None:
        super().__init__(f"A page of another site ({origin}) may not change the wardrobe.")


class UnknownHostError(RequestError):
    def __init__(self, host: str) -> None:
        super().__init__(
            f"The wardrobe is not shown under the name {host!r}: without API keys, any site could give its own name "
            "this service's address. Open it by its address or as localhost, or have whoever runs it add the name to "
            "WARDROBE_HOST_NAMES."
        )


class StorageOffError(RequestError):
    def __init__(self) -> None:
        super().__init__(
            "This service keeps no items: whoever runs it has not switched storage on (WARDROBE_STORAGE=on). "
            "POST /predict classifies pictures without keeping them."
        )


class ImageError(WardrobeError):
    """One picture cannot be classified or kept."""


class NoRoomError(ImageError):
    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"There is no room for the picture: all pictures together may take {max_bytes} bytes, and some of the disk "
            "is left free. Remove items, or ask whoever runs the service for more room."
        )
        self.max_bytes = max_bytes


class ImportedItemError(ImageError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"The item was left out: {reason}.")


class EmptyImageError(ImageError):
    def __init__(self) -> None:
        super().__init__("The file is empty (0 bytes). Send the image's bytes.")


class UnsupportedImageFormatError(ImageError):
    def __init__(self, accepted: Sequence[str]) -> None:
        super().__init__(f"The file is not an image of an accepted format. Send one of {', '.join(accepted)}.")
        self.accepted = list(accepted)


class ImageTooLargeError(ImageError):
    def __init__(self, max_pixels: int, size: tuple[int, int] | None = None) -> None:
        found = f"The image has {size[0]}x{size[1]} pixels" if size else "The image has too many pixels"
        super().__init__(f"{found}; at most {max_pixels} are accepted. Scale it down.")
        self.max_pixels = max_pixels
        self.size = size


class ImageTooComplexError(ImageError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"The image is too complex to decode: {reason}. Save it as a baseline JPEG or a plain PNG.")
        self.reason = reason


class UndecodableImageError(ImageError):
    def __init__(self, image_format: str) -> None:
        super().__init__(
            f"The file looks like {image_format} but cannot be decoded: it is cut short or damaged. "
            "Export it again and send the new file."
        )


class ServiceError(WardrobeError):
    """The service cannot answer now; the same request may succeed later."""

    def __init__(self, text: str, retry_after_seconds: int) -> None:
        super().__init__(f"{text} Try again in {retry_after_seconds} s.")
        self.retry_after_seconds = retry_after_seconds


class BusyError(ServiceError):
    pass


class NotReadyError(ServiceError):
    pass


class TooManyConnectionsError(ServiceError):
    pass


class StorageUnavailableError(ServiceError):
    pass


class ArtifactError(WardrobeError):
    """A model folder is incomplete, damaged, or does not compute what its card says."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder.parent.name}/{folder.name} is refused: {reason}")
