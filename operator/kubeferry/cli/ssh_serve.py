"""sshd's forced command: it relays a command of another node's agent to this node's, and is never run by hand.

A program of its own, which imports next to nothing: it is started for each such command, and a VM may be off meanwhile.
"""

import argparse
import os
import sys
from pathlib import Path

from kubeferry.agent.transfer.serve import ServeError, serve


def main() -> None:
    """Serve what the environment names."""
    parser = argparse.ArgumentParser(prog="ssh_serve", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="The unix socket of this node's agent.")
    parser.add_argument("--peer", required=True, help="The node whose key was shown.")
    asked = parser.parse_args()
    try:
        serve(asked.socket, asked.peer, os.environ.get("SSH_ORIGINAL_COMMAND"))
    except ServeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
