"""The `prep` command without the pauses between attempts: `python tests/quick_prep.py ARGUMENTS`."""

from __future__ import annotations

import prep.images.fetch
from prep.cli import main
from prep.sources.transfer import Session

prep.images.fetch.MAX_PAUSE_SECONDS = 0.0


def _no_pause(self: Session, seconds: float) -> None:
    self.check_time()


Session.pause = _no_pause  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
