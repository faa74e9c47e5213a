"""Coverage-guided fuzzing of the decoder, in this process; not part of the tests, it has no end of its own.

    python -m pip install atheris
    python -m tests.fuzz_decoder --minutes 10 --folder runs/fuzz

Whatever is not an ImageError, takes more than 20 s or more than 2 GB stops it; the file that did it is then in the
folder, beside the ones that reached new code, with which the next run goes on.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "pillow_heif", "app.images"]):
    from app.errors import ImageError
    from app.images import decode
    from tests.odd_files import ODD_FILES

MAX_PIXELS = 1_000_000  # small pictures: more of them a second
MAX_SEED_BYTES = 100_000


def decode_or_refuse(content: bytes) -> None:
    with contextlib.suppress(ImageError):
        decode(content, max_pixels=MAX_PIXELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default %(default)g)")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"), help="of all files (default %(default)s)")
    options = parser.parse_args()

    corpus = options.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for name, odd in ODD_FILES.items():
        if len(content := odd.make()) <= MAX_SEED_BYTES:
            (corpus / f"seed-{name.replace('/', '-')}").write_bytes(content)
    flags = [
        f"-max_total_time={options.minutes * 60:.0f}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        f"-max_len={MAX_SEED_BYTES}",
        "-print_final_stats=1",
        f"-artifact_prefix={options.folder}/",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], decode_or_refuse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
