"""The interpreter of the peers' environment."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


@pytest.fixture
def peer_with() -> Callable[..., str]:
    """Returns the peers' interpreter, or skips the test where it cannot import some modules."""

    def interpreter(*modules: str) -> str:
        command = [PEER, "-c", f"import {', '.join(modules)}"]
        if not PEER.exists() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"{PEER} is missing, or has no {', '.join(modules)}; make peers")
        return str(PEER)

    return interpreter
