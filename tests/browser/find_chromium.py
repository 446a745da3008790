"""Where Chromium is; as a script, installs it from Debian's packages where there is none."""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "No Chromium was found: install it (Debian: apt-get install chromium), "
    "or name the program of a Chromium or Chrome in the variable CHROMIUM."
)


def find():
    """Path of the Chromium to drive, or None.

    Returns
    -------
    str or None
        What the variable CHROMIUM names, or the first that is on the path.
    """
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


def install():
    """Install Chromium from Debian's packages, if this user may; says what it does, and nothing if it cannot."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return
    print("Installing Chromium from the system's packages (about a minute)", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ["chromium", "fonts-liberation"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"apt-get {command[0]} failed: {(done.stderr or done.stdout).strip()}", file=sys.stderr)
            return


def main():
    """Find Chromium, or install it; exit status 1 and one sentence if neither is possible."""
    if not find() and not os.environ.get("CHROMIUM"):
        install()
    return None if find() else MISSING


if __name__ == "__main__":
    sys.exit(main())
