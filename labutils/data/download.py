"""Download one file in a process of its own, which can be ended at any moment: ``download.py URL FILE BYTES SECONDS``.

More than so many bytes are refused, and so is a server that says nothing for so many seconds. What went wrong
is the only thing on standard error.
"""

import sys
import urllib.request


def download(url, path, most_bytes, silence):
    request = urllib.request.Request(url, headers={"User-Agent": "labutils"})
    with urllib.request.urlopen(request, timeout=silence) as answer, open(path, "xb") as file:
        while chunk := answer.read1(65536):
            if file.tell() + len(chunk) > most_bytes:
                sys.exit(f"more than the {most_bytes:,} bytes that the file may have were sent")
            file.write(chunk)
            file.flush()  # whoever watches sees that it grows


if __name__ == "__main__":
    try:
        download(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller wants a sentence
        sys.exit(str(error) or type(error).__name__)
