"""What holds for all tests."""

import warnings

import pytest


@pytest.fixture(autouse=True, scope="module")
def no_client_is_left():
    """A Dask client that outlives its module would be waited for by all that computes later."""
    yield
    from distributed.client import _get_global_client

    while (client := _get_global_client()) is not None:
        warnings.warn(f"a test left {client} open", stacklevel=1)
        client.close(timeout=5)
