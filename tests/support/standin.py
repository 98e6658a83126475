"""A process that only pretends: answers PING, and lives and dies as its flags say.

Events (start, term, end) go to a file, one per line, so that tests can see their order.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time


def main() -> None:
    """Listens, announces, answers until SIGTERM."""
    arguments = parse_arguments()

    def note(event: str) -> None:
        with open(arguments.events, "a") as file:
            file.write(f"{arguments.name} {event}\n")

    note("start")
    print(f"hello from {arguments.name}", flush=True)
    if arguments.exit_code is not None:
        print("warning: nothing to stand on", flush=True)
        sys.exit(arguments.exit_code)

    def on_term(number: int, frame: object) -> None:
        note("term")
        if not arguments.stubborn:
            time.sleep(arguments.drain_s)
            note("end")
            os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    with socket.create_server(("127.0.0.1", arguments.port)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                # A knock without a word gets no answer; the reader may have left already.
                try:
                    connection.sendall(b"+PONG\r\n")
                except OSError:
                    continue


def parse_arguments() -> argparse.Namespace:
    """Flags of the play."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", required=True)
    parser.add_argument("--exit-code", type=int)
    parser.add_argument("--stubborn", action="store_true")
    parser.add_argument("--drain-s", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
