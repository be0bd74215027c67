"""`python -m evenmoe.serving.transformers.server --options FILE`: the server as a process of its own."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from evenmoe.errors import EvenMoEError
from evenmoe.serving.transformers.server.options import read_options
from evenmoe.serving.transformers.server.run import run_server

API_KEY = "EVENMOE_API_KEY"
"""The environment variable with the key that clients must send: a command line is readable to all on a machine."""


def main() -> int:
    """Return the exit status: 0 after a clean stop, 1 with the reason as the last line otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--options", required=True, help="JSON file with the fields of ServerOptions")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run_server(read_options(arguments.options, os.environ.get(API_KEY)))
    except (EvenMoEError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
