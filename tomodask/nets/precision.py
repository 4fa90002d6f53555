"""In which precision a network multiplies; needs no PyTorch."""

from __future__ import annotations

from typing import Literal

__all__ = ["Precision"]

Precision = Literal["float32", "bfloat16"]
