"""The `prep` command without the pauses between attempts: `python tests/quick_prep.py ARGUMENTS`."""

from __future__ import annotations

import prep.images.fetch
import prep.sources.transfer
from prep.cli import main

prep.images.fetch.MAX_PAUSE_SECONDS = 0.0
prep.sources.transfer.MAX_PAUSE_SECONDS = 0.0

if __name__ == "__main__":
    main()
