"""Where the frequencies of a tile are written: each at its own place, and so is its opposite."""

import pytest

from tomodask.arrays.spectrum_slices import band_rows


@pytest.mark.parametrize("tilt_range", [(-90.0, 90.0), (-60.0, 60.0), (-40.0, 65.0), (10.0, 60.0)])
@pytest.mark.parametrize("box", [(30, 12, 16), (16, 16, 16), (15, 20, 9), (8, 30, 11)])
@pytest.mark.parametrize("band", [0.5, 0.3, 0.2])
def test_every_frequency_and_its_opposite_have_their_own_column(box, tilt_range, band):
    rows = band_rows(box, band=band, tilt_range=tilt_range)
    place = {}
    for z, first, count, column in rows.runs:
        for i in range(count):
            assert column + i not in place
            place[column + i] = (z, first + i)
    for i in range(len(rows.z)):
        z = rows.z[i]
        for x in range(rows.low[i], rows.high[i]):
            assert place[rows.ahead[i] + x] == (z, x)
            opposite = rows.behind[i] - x if x else rows.across[i]
            assert place[opposite] == (-z, -x)
