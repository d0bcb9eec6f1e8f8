"""Files that hold a secret key: made whole or not at all, never over another, readable by their owner alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_key_file(path: Path, content: bytes) -> None:
    """Make a key's file, with mode 0600 in a folder of mode 0700 where there is none.

    Threads and processes may do so at once: the first one's key stands, and each of the others is told.

    Raises:
        FileExistsError: there is a key; it stays as it is.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600, a name of its own
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(scratch, path)
    finally:
        os.unlink(scratch)
