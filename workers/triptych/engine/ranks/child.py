"""A follower as a child process: `python -m triptych.engine.ranks.child`, told by its parent what it is.

What it needs comes pickled through its standard input, which stays open as long as the parent lives: however that
ends, the child reads the end of the stream, and ends too, also in the middle of a step.
"""

import logging
import os
import pickle
import sys
import threading

from triptych.engine.ranks.joining import Invitation, follow
from triptych.engine.threads import use_threads
from triptych.parallel import RankLost

logger = logging.getLogger(__name__)


def main() -> None:
    """Takes its invitation from the standard input."""
    invitation: Invitation = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    use_threads(invitation.settings.threads)
    try:
        follow(invitation)
    except RankLost as lost:
        logger.info("rank %d ends: %s", invitation.rank, lost)
        sys.exit(1)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
