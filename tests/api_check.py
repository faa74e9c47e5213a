"""`make api-check`: what the API description promises, tried by schemathesis on a service of its own.

It adds, changes and removes items: they are in a folder that is gone afterwards, and nobody's wardrobe.
The arguments are schemathesis' command and its options, for instance --seed 1.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.process import REPOSITORY, serving


def main() -> None:
    schemathesis, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="api-check-") as folder:
        settings = {"ENGINE": "onnxruntime", "STORAGE": "on", "DATA_DIR": f"{folder}/data"}
        with serving(Path(folder, "log"), **settings) as (_, client):
            command = [str(Path(schemathesis).absolute()), "run", *options, f"{client.base_url}/openapi.json"]
            done = subprocess.run(command, cwd=REPOSITORY, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
