"""The announced end: what is received while the block lasts, and who knows of it. The loop's part: test_loop.py."""

import os
import signal

import jax
import pytest

from dsmath_jax.sharding import Layout
from dsmath_jax.training.preemption import SIGNALS, Preempted, PreemptionListener
from dsmath_jax.workdir import UserError


@pytest.fixture(params=[1, 2])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One process; or the way that several take, on the devices of this one."""
    monkeypatch.setattr(jax, "process_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_reported_and_delivered_again_at_the_end(
    layout: Layout, processes: int, number: signal.Signals
) -> None:
    received = []
    before = signal.signal(number, lambda number, frame: received.append(number))
    try:
        with PreemptionListener(layout) as preemption:
            assert not bool(preemption.received())
            os.kill(os.getpid(), number)
            assert isinstance(preemption.received(), bool) == (processes == 1)
            assert bool(preemption.received())
            os.kill(os.getpid(), number)  # a second one changes nothing
            assert not received
        assert received == [number]
        os.kill(os.getpid(), number)
        assert received == [number, number]
    finally:
        signal.signal(number, before)


def test_a_run_that_saved_does_not_get_the_signal_again(layout: Layout) -> None:
    def check() -> None:
        with PreemptionListener(layout):
            os.kill(os.getpid(), signal.SIGTERM)
            raise Preempted("saved")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match="saved") as error:
        check()
    assert error.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
