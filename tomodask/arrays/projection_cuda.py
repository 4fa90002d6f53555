"""The kernels of `tomodask.arrays.projection` for arrays that live on a GPU.

One thread gathers one sample: the taps are computed where they are needed, nothing is stored, and
no two threads write to one place.  `SOURCE` is plain CUDA C++, so that it can also be compiled for
the CPU and held against the other kernels where there is no GPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tomodask.arrays.backend import Array, namespace
from tomodask.arrays.gridding import BETA, WIDTH

__all__ = ["SOURCE", "back_project_cuda", "project_cuda"]

SOURCE = """
__device__ inline float tap(float d) {
    const float t = d * (2.0f / WIDTH);
    const float inside = 1.0f - t * t;
    return inside > 0.0f ? expf(BETA * (sqrtf(inside) - 1.0f)) : 0.0f;
}

// volume (nz, ny, nx) -> out (tilts, ny, samples); one thread a sample.
extern "C" __global__ void project(
    const float* volume, const int nz, const int ny, const int nx, const double* cosines,
    const double* sines, const int tilts, const double center_z, const double center_x,
    const double middle, const int samples, float* out)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (long long)tilts * ny * samples) return;
    const int i = thread % samples;
    const int y = (thread / samples) % ny;
    const int t = thread / ((long long)samples * ny);
    const double half = WIDTH / 2.0;
    const double step = 2 * cosines[t];
    float total = 0.0f;
    for (int z = 0; z < nz; ++z) {
        const double base = middle + 2 * (z - center_z) * sines[t] - center_x * step - i;
        int low = 0, high = nx - 1;
        if (fabs(step) * nx >= 1e-9) {
            const double a = (-half - base) / step, b = (half - base) / step;
            low = (int)ceil(fmax(fmin(a, b), 0.0));
            high = (int)floor(fmin(fmax(a, b), nx - 1.0));
        }
        const float* row = volume + ((long long)z * ny + y) * nx;
        for (int x = low; x <= high; ++x) total += tap((float)(base + x * step)) * row[x];
    }
    out[thread] = total;
}

// fine (tilts, ny, samples), from sample `first` on -> out (nz, ny, nx); one thread a voxel.
extern "C" __global__ void back_project(
    const float* fine, const int tilts, const int ny, const int samples, const int first,
    const double* cosines, const double* sines, const float* weights, const double* zs,
    const double* xs, const int nz, const int nx, const double middle, float* out)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (long long)nz * ny * nx) return;
    const int x = thread % nx;
    const int y = (thread / nx) % ny;
    const int z = thread / ((long long)nx * ny);
    float total = 0.0f;
    for (int t = 0; t < tilts; ++t) {
        const double at = middle + 2 * (xs[x] * cosines[t] + zs[z] * sines[t]) - first;
        const int start = (int)ceil(at - WIDTH / 2.0);
        const float* row = fine + ((long long)t * ny + y) * samples;
        float sum = 0.0f;
        for (int j = max(start, 0); j < min(start + WIDTH, samples); ++j)
            sum += tap((float)(j - at)) * row[j];
        total += weights[t] * sum;
    }
    out[thread] = total;
}
"""

_THREADS = 256


@lru_cache(maxsize=2)
def _kernel(name: str) -> Any:
    import cupy

    defines = f"#define WIDTH {WIDTH}\n#define BETA {BETA}f\n"
    return cupy.RawKernel(defines + SOURCE, name)


def project_cuda(
    volume: Array,
    cosines: np.ndarray,
    sines: np.ndarray,
    center_z: float,
    center_x: float,
    middle: float,
    samples: int,
) -> Array:
    """Lines of half pixels, shape (tilts, ny, samples), on the volume's device."""
    xp = namespace(volume)
    nz, ny, nx = volume.shape
    out = xp.empty((len(cosines), ny, samples), xp.float32)
    _kernel("project")(
        (-(-out.size // _THREADS),),
        (_THREADS,),
        (
            xp.ascontiguousarray(volume, xp.float32), np.int32(nz), np.int32(ny), np.int32(nx),
            xp.asarray(cosines), xp.asarray(sines), np.int32(len(cosines)), np.float64(center_z),
            np.float64(center_x), np.float64(middle), np.int32(samples), out,
        ),
    )  # fmt: skip
    return out


def back_project_cuda(
    fine: Array,
    first: int,
    cosines: np.ndarray,
    sines: np.ndarray,
    weights: np.ndarray,
    zs: np.ndarray,
    xs: np.ndarray,
    middle: float,
) -> Array:
    """Voxels, shape (len(zs), ny, len(xs)), on the device of the rows."""
    xp = namespace(fine)
    tilts, ny, samples = fine.shape
    out = xp.empty((len(zs), ny, len(xs)), xp.float32)
    _kernel("back_project")(
        (-(-out.size // _THREADS),),
        (_THREADS,),
        (
            xp.ascontiguousarray(fine, xp.float32), np.int32(tilts), np.int32(ny),
            np.int32(samples), np.int32(first), xp.asarray(cosines), xp.asarray(sines),
            xp.asarray(weights), xp.asarray(zs), xp.asarray(xs), np.int32(len(zs)),
            np.int32(len(xs)), np.float64(middle), out,
        ),
    )  # fmt: skip
    return out
