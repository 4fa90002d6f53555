"""Where a classifier looks: Grad-CAM volumes (Selvaraju et al., ICCV 2017, arXiv:1610.02391)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from tomodask.errors import InputError
from tomodask.nets.boxes.networks import BoxNetwork

__all__ = ["grad_cam"]


def grad_cam(
    network: BoxNetwork, boxes: np.ndarray, classes: np.ndarray | None = None
) -> np.ndarray:
    """How much each part of a box speaks for a class: equations 1 and 2 of the paper.

    ``ReLU(Σ_k α_k A_k)``: A_k the maps of the last convolutions, α_k the mean over a map of the
    derivative of the class's logit.  Interpolated to the box; coarse, a voxel of a map being two or
    four of the box.

    Parameters
    ----------
    network : BoxNetwork
    boxes : array of float32, shape (n, z, y, x)
        Normalised.
    classes : array of int, shape (n,), optional
        Each box's likeliest class where None.

    Returns
    -------
    array of float32, shape (n, z, y, x)
        At least 0; each with a maximum of 1, or 0 everywhere where nothing speaks for the class.

    Raises
    ------
    InputError
        If a class is not one of the network's.
    """
    outputs = network.encoder.outputs
    if classes is not None and ((classes < 0) | (classes >= outputs)).any():
        raise InputError(f"classes must be from 0 to {outputs - 1}, got {classes!r}")
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    out = np.empty(boxes.shape, np.float32)
    try:
        for number, box in enumerate(boxes):
            x = torch.from_numpy(np.ascontiguousarray(box, np.float32)).to(device)[None, None]
            with torch.no_grad():
                maps = network.maps(x)
            maps.requires_grad_()
            with torch.enable_grad():
                logits = network.last(network.flat(maps))[0]
                chosen = int(logits.argmax()) if classes is None else int(classes[number])
                (slope,) = torch.autograd.grad(logits[chosen], maps)
            with torch.no_grad():
                shares = slope.mean((2, 3, 4), keepdim=True)
                seen = functional.relu((shares * maps).sum(1, keepdim=True))
                seen = functional.interpolate(
                    seen, size=tuple(box.shape), mode="trilinear", align_corners=False
                )[0, 0]
                seen /= seen.max().clamp(min=torch.finfo(seen.dtype).tiny)
            out[number] = seen.cpu().numpy()
    finally:
        network.train(training)
    return out
