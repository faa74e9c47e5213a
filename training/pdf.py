"""A page as PDF, printed by whatever browser is there: the same page with the same links, and no second layout to keep.

What pip alone brings falls short: WeasyPrint lays pages out as well, but needs Pango's libraries from the system; fpdf2
reads HTML without CSS, links within the page or links in tables.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Names on the path, and where macOS and Windows put them.
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "microsoft-edge",
    "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
TIMEOUT_SECONDS = 120


def print_pdf(page: Path, pdf: Path) -> bool:
    """Print an HTML file; False, and no PDF, where no browser is found or it fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return False
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # in a container, where the browser's sandbox refuses
    pdf.unlink(missing_ok=True)
    # A profile of its own: an open browser holds the user's.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            *(["--no-sandbox"] if as_root else []),
            "--no-pdf-header-footer",
            f"--print-to-pdf={pdf.resolve()}",
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(  # noqa: S603  # a browser of this machine, and a page of our own
                command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0 and pdf.exists()
