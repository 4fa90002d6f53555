"""Networks: the only room that imports PyTorch or OpenVINO, each only where it is needed."""

from importlib.util import find_spec

from tomodask.errors import InputError

__all__ = ["needs"]

_EXTRAS = {"torch": "training", "openvino": "segmentation"}


def needs(package: str, *, extra: str | None = None) -> None:
    """Raise an InputError that says what to install, where a package is not there.

    `extra` is that of tomodask which has all that is wanted; by default the package's own.
    """
    if find_spec(package) is None:
        extra = extra or _EXTRAS[package]
        raise InputError(
            f"this needs {package}, which is not installed: pip install 'tomodask[{extra}]'"
        )
