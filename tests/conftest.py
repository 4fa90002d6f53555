"""What holds for all tests."""

import signal
import warnings

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in `make test &`: what the tests start would ignore Ctrl-C, too, and it is what some test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def no_client_is_left():
    """A Dask client that outlives its module would be waited for by all that computes later."""
    yield
    from distributed.client import _get_global_client

    while (client := _get_global_client()) is not None:
        warnings.warn(f"a test left {client} open", stacklevel=1)
        client.close(timeout=5)
    import dask

    if dask.config.get("scheduler", None) == "dask.distributed":
        # A client that was lost, and not closed, stays the default: all later work would fail.
        warnings.warn("a test left Dask's scheduler set to a client that is gone", stacklevel=1)
        dask.config.set(scheduler=None)
