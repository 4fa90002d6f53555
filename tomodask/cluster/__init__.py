"""Where work runs, how it is shown, and what Dask's own share of it is."""

from tomodask.cluster.computing import compute
from tomodask.cluster.connecting import connect
from tomodask.cluster.overhead import DaskTime, overhead

__all__ = ["DaskTime", "compute", "connect", "overhead"]
