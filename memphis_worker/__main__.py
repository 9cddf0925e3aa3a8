"""`python -m memphis_worker`: the same as `memphis-worker`."""

import sys

from memphis_worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
