"""`python -m mlecs_bench` is the command `mlecs-bench`."""

import sys

from mlecs_bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
