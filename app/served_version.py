"""models/<name>/served.json: which version of a model the service takes, and which it took before.

`python -m training promote` and `rollback` write it; the service only reads it. Without it the newest good version is
served.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from app.errors import ArtifactError

POINTER_NAME = "served.json"


class ServedVersion(BaseModel):
    """What served.json says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: PositiveInt
    previous: tuple[PositiveInt, ...] = Field((), description="Served before it, the latest last: the ways back.")


def read_pointer(model_folder: Path) -> ServedVersion | None:
    """What served.json in models/<name> says; None if there is none.

    Raises:
        ArtifactError: it cannot be read, or says something else than a version.
    """
    path = model_folder / POINTER_NAME
    try:
        return ServedVersion.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(path, f"it cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.".lstrip(": ")) from error
