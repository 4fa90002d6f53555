"""Units of length that files name, in Å."""

from __future__ import annotations

__all__ = ["angstroms"]

_ANGSTROMS = {
    "angstrom": 1.0, "ångström": 1.0, "ångstrom": 1.0, "å": 1.0, "a": 1.0,
    "nanometer": 10.0, "nanometre": 10.0, "nm": 10.0,
    "micrometer": 1e4, "micrometre": 1e4, "micron": 1e4, "microns": 1e4, "um": 1e4,
    "millimeter": 1e7, "millimetre": 1e7, "mm": 1e7,
    "centimeter": 1e8, "cm": 1e8, "inch": 2.54e8, "in": 2.54e8,
    "meter": 1e10, "metre": 1e10, "m": 1e10,
    "picometer": 0.01, "pm": 0.01,
}  # fmt: skip


def angstroms(unit: str | None) -> float | None:
    """Å in one of that unit; None for a unit that is none of length, or not given.

    Examples
    --------
    >>> angstroms("nanometer"), angstroms("µm"), angstroms("pixel")
    (10.0, 10000.0, None)
    """
    if unit is None:
        return None
    plain = unit.strip().replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u").lower()
    return _ANGSTROMS.get(plain.removesuffix("s") if plain.endswith("meters") else plain)
