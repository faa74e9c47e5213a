"""Files of the types that the API takes, for schemathesis, which would send random bytes: see schemathesis.toml.

It imports this in an environment of its own, where nothing of the service is installed.
"""

import base64
import io
import json
import zipfile
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

PICTURES = [path.read_bytes() for path in sorted((Path(__file__).parent / "data").glob("*.png"))]


def archive(lines: list[str]) -> bytes:
    """What /items/import takes as an export; lines that are no items are named in its answer."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("items.jsonl", "\n".join(lines))
    return file.getvalue()


# Bytes after the end of a PNG belong to no picture, and make it another item.
pictures = st.builds(bytes.__add__, st.sampled_from(PICTURES), st.binary(max_size=8))
schemathesis.openapi.format("binary", pictures)
schemathesis.openapi.media_type("image/png", pictures)
schemathesis.openapi.media_type("application/octet-stream", pictures)
schemathesis.openapi.media_type("application/zip", st.builds(archive, st.lists(st.text(), max_size=5)))

# Any date is a time, a number and a text: a place in every order of items.
place = base64.urlsafe_b64encode(json.dumps(["20261125", "0" * 64]).encode()).decode()
schemathesis.openapi.format("cursor", st.just(place))
schemathesis.openapi.format("entity-tag", st.sampled_from(["*", '"1"', '"2"']))
