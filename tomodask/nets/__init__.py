"""Networks: the only room that imports PyTorch or OpenVINO, each only where it is needed."""

from importlib.util import find_spec

from tomodask.errors import InputError

__all__ = ["needs"]

_EXTRAS = {"torch": "training", "openvino": "segmentation"}


def needs(package: str) -> None:
    """Raise an InputError that says what to install, where a package is not there."""
    if find_spec(package) is None:
        extra = _EXTRAS[package]
        raise InputError(
            f"this needs {package}, which is not installed: pip install 'tomodask[{extra}]'"
        )
