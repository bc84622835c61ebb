"""Serves the annotation page: a person marks which URL prefixes of math-related domains are mathematics (section 2.1).

    python -m dsmath_jax.corpus.annotate --workdir=DIR [--port=8000] [--no-browser]

The page works on the files of a finished corpus stage and can be opened on this machine only. It saves every mark at
once to DIR/annotations.jsonl, which may be edited by hand at the same time. Ctrl-C ends the server.
"""

import argparse
import os
import signal
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from dsmath_jax.corpus.annotations import Store
from dsmath_jax.extras import required_by
from dsmath_jax.workdir import UserError, exit_code

with required_by(__name__):
    from dsmath_jax.corpus.annotate_page.corpus_files import CorpusFiles
    from dsmath_jax.corpus.annotate_page.server import Server
    from dsmath_jax.corpus.annotate_page.session import Session


def open_server(workdir: Path, port: int) -> Server:
    """Returns a server for the corpus of a workdir. It listens, but answers only once `serve_forever` is called.

    Raises:
      UserError: the workdir has no finished corpus stage, or the port is taken.
    """
    return Server(Session(CorpusFiles(workdir), Store(workdir / "annotations.jsonl")), port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run whose corpus stage has finished")
    parser.add_argument("--port", type=int, default=8000, help="port of the server, 0 for a free one (default: 8000)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    values = parser.parse_args(arguments)
    server = open_server(values.workdir, values.port)
    session = server.session
    for error in line_errors(session.store):
        print(f"warning: {error} No mark is saved until then.", file=sys.stderr)
    if not session.corpus.domains:
        print("warning: This corpus has no math-related domain, so there is nothing to mark.", file=sys.stderr)
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # background processes of a shell ignore SIGINT
        signal.signal(signal_number, signal.default_int_handler)
    try:
        print(f"annotation page: {server.url} (Ctrl-C ends it)", flush=True)
        if not values.no_browser and has_desktop():
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    print("To use the marks, run the corpus stage with:")
    print(f"--config.corpus.annotations={session.store.path}", flush=True)


def line_errors(store: Store) -> list[str]:
    """Returns an error message for each invalid line of the annotation file, or one for an unreadable file."""
    try:
        return store.errors()
    except UserError as error:
        return [str(error)]


def has_desktop() -> bool:
    """Returns whether a browser would open in a window and not in this terminal."""
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))


if __name__ == "__main__":
    sys.exit(exit_code(main))
