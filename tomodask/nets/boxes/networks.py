"""Networks that look at whole boxes: RB3D [1]_ [3]_, Inception3D and DSRF3D [2]_.

Tensors are ``(batch, 1, z, y, x)``, float, of normalised cubic boxes.  All three are convolutions
(`maps`), what is left of them as one vector (`flat`), and a last linear layer.

None of them normalises by its batch, so a box's result knows nothing of the boxes beside it.

.. [1] Che et al., "Improved deep learning-based macromolecules structure classification from
   electron cryo-tomograms", Mach. Vis. Appl. 29, 1227 (2018), doi:10.1007/s00138-018-0949-4.
.. [2] Xu et al., "Deep learning-based subdivision approach for large scale macromolecules structure
   recovery from electron cryo tomograms", Bioinformatics 33, i13 (2017),
   doi:10.1093/bioinformatics/btx230.
.. [3] Gupta et al., "Self-supervised learning for macromolecular structure classification based on
   cryo-electron tomograms", Front. Physiol. 13, 957484 (2022), doi:10.3389/fphys.2022.957484.
.. [4] Krähenbühl et al., "Data-dependent initializations of convolutional neural networks", ICLR
   (2016), arXiv:1511.06856, §3.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

from tomodask.nets.boxes.encoder import Encoder, EncoderName

__all__ = ["DSRF3D", "RB3D", "BoxNetwork", "Inception3D", "build_encoder", "network"]

_DROPOUT = 0.7  # share of Inception3D's numbers that a step leaves out
_SILENT = 1e-12  # variance


class BoxNetwork(nn.Module, ABC):
    """What the three have in common.

    Parameters
    ----------
    encoder : Encoder
    """

    last: nn.Linear
    #: Layers that the last linear layer hangs on, with nothing but ReLU and means between.
    outer: tuple[str, ...]
    #: Whether first weights are to be scaled by boxes before anything is learned (`settle`).
    unsettled = False

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """What the last convolutions give, (batch, channel, z, y, x): where Grad-CAM looks."""

    @abstractmethod
    def flat(self, maps: torch.Tensor) -> torch.Tensor:
        """The vector that the last linear layer gets."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What stands for a box, (batch, `Encoder.features`).

        The activations before the last linear layer; of Inception3D, which has only one, that
        layer's own output.  (The structural feature of [2]_ is that of the last layer always:
        `forward`.)
        """
        return self.flat(self.maps(x))

    def length(self, x: torch.Tensor) -> float:
        """Root of the mean square of what the last linear layer gets."""
        training = self.training
        self.eval()
        with torch.no_grad():
            flat = self.flat(self.maps(x))
        self.train(training)
        return float(flat.float().square().mean().sqrt())

    def lengthen(self, factor: float) -> None:
        """Make what the last linear layer gets so many times as long, and change nothing else."""
        with torch.no_grad():
            for name in self.outer:
                for values in self.get_submodule(name).parameters():
                    values.mul_(factor)

    def settle(self, x: torch.Tensor) -> None:
        """Scale first weights by some boxes: what a layer says of them has mean 0 and deviation 1.

        Of each channel in convolutions; of the hidden linear layers, whose numbers are one a box,
        the mean of each and one deviation of all.  A layer is scaled by what the layers before it
        give when they are.  The last one stays.  [4]_

        Parameters
        ----------
        x : tensor, shape (batch, 1, z, y, x)
            Some tens of them.
        """

        def scale(layer: nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
            within = [axis for axis in range(out.ndim) if axis != 1]
            mean = out.mean(within, keepdim=True)
            each = (out - mean).square().mean(within if out.ndim > 2 else None)
            # A channel that is silent has nothing to be scaled by.
            spread = torch.where(each > _SILENT, each, 1.0).sqrt().expand(out.shape[1])
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            weight.div_(spread.reshape(-1, *[1] * (weight.ndim - 1)))
            bias.sub_(mean.flatten()).div_(spread)
            return (out - mean) / spread.reshape(1, -1, *[1] * (out.ndim - 2))

        hooks = [
            layer.register_forward_hook(scale)
            for layer in self.modules()
            if isinstance(layer, nn.Conv3d | nn.Linear) and layer is not self.last
        ]
        training = self.training
        try:
            with torch.no_grad():
                self.eval()(x)
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, `Encoder.outputs`), before the softmax."""
        return torch.as_tensor(self.last(self.flat(self.maps(x))))


class RB3D(BoxNetwork):
    """Residual blocks whose two paths are concatenated; hidden layer of 1024.

    A convolution of 3³ × 32, 2³ maximum; four blocks of [3³ → 16] beside [1³ → 16, 3³ → 32,
    1³ → 16]; means over 4 × 4 × 4 windows (`Encoder.windows`); FC-1024; FC-L.  Without means, as in
    the program of [1]_, the hidden layer alone would have 134 million weights for a box of 32³.
    With the 2 × 2 × 2 of a public version of [3]_, a particle in the middle can hardly be told from
    its neighbours, and the network does not begin to learn.
    """

    outer = ("hidden",)
    unsettled = True

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.first = nn.Conv3d(1, 32, 3, padding=1)
        count = sum(name.endswith("short.weight") for name in encoder.shapes)
        self.blocks = nn.Sequential(*(_TwoPaths() for _ in range(count)))
        self.hidden = nn.Linear(encoder.flat, 1024)
        self.last = nn.Linear(1024, encoder.outputs)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.maps`."""
        x = functional.max_pool3d(functional.relu(self.first(x)), 2)
        return torch.as_tensor(self.blocks(x))

    def flat(self, maps: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.flat`."""
        size, step = self.encoder.windows
        mean = functional.avg_pool3d(_wide(maps), size, step).to(maps.dtype)
        return torch.as_tensor(functional.relu(self.hidden(mean.flatten(1))))


class _TwoPaths(nn.Module):
    """A block of RB3D; 32 channels in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Conv3d(32, 16, 3, padding=1)
        self.narrow = nn.Conv3d(32, 16, 1)
        self.wide = nn.Conv3d(16, 32, 3, padding=1)
        self.close = nn.Conv3d(32, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        long = self.close(functional.relu(self.wide(functional.relu(self.narrow(x)))))
        return functional.relu(torch.cat([self.short(x), long], 1))


class DSRF3D(BoxNetwork):
    """3³ convolutions 32-32-pool-64-64-pool, FC-512 twice, FC-L."""

    outer = ("hidden.1",)

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        widths = [(1, 32), (32, 32), (32, 64), (64, 64)]
        self.convolutions = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in widths)
        self.hidden = nn.ModuleList([nn.Linear(encoder.flat, 512), nn.Linear(512, 512)])
        self.last = nn.Linear(512, encoder.outputs)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.maps`."""
        one, two, three, four = self.convolutions
        x = functional.relu(two(functional.relu(one(x))))
        x = functional.max_pool3d(x, 2)
        return functional.relu(four(functional.relu(three(x))))

    def flat(self, maps: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.flat`."""
        x = functional.max_pool3d(maps, 2).flatten(1)
        for layer in self.hidden:
            x = functional.relu(layer(x))
        return x


class Inception3D(BoxNetwork):
    """5³ × 32, 2³ maximum, an inception module, 2³ means, dropout, FC-L.

    The module joins 1³ → 32; 1³ → 32, 3³ → 64; 1³ → 16, 5³ → 32; 2³ maximum, 1³ → 32.  The first
    convolution gives no voxels next to the faces, and means are taken at each voxel, both as in the
    authors' program.
    """

    outer = ("single", "three", "five", "after_pool")

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.first = nn.Conv3d(1, 32, 5)
        self.single = nn.Conv3d(32, 32, 1)
        self.to_three, self.three = nn.Conv3d(32, 32, 1), nn.Conv3d(32, 64, 3, padding=1)
        self.to_five, self.five = nn.Conv3d(32, 16, 1), nn.Conv3d(16, 32, 5, padding=2)
        self.after_pool = nn.Conv3d(32, 32, 1)
        self.last = nn.Linear(encoder.flat, encoder.outputs)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.maps`."""
        relu = functional.relu
        x = functional.max_pool3d(relu(self.first(x)), 2, ceil_mode=True)
        # Zeros beyond the far faces, which no value is below: after a ReLU they change no maximum.
        highest = functional.max_pool3d(functional.pad(x, (0, 1) * 3), 2, stride=1)
        return relu(
            torch.cat(
                [
                    self.single(x),
                    self.three(relu(self.to_three(x))),
                    self.five(relu(self.to_five(x))),
                    self.after_pool(highest),
                ],
                1,
            )
        )

    def flat(self, maps: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.flat`."""
        # Axis by axis: on a CPU, PyTorch's avg_pool3d is much slower, forth and back.
        mean = _wide(maps)
        for axis in (2, 3, 4):
            size = mean.shape[axis] - 1
            mean = mean.narrow(axis, 0, size) + mean.narrow(axis, 1, size)
        mean = (0.125 * mean).to(maps.dtype).flatten(1)
        if not self.training:
            return mean
        # As nn.Dropout, whose draws are slower on a CPU.
        kept = torch.rand(mean.shape, device=mean.device) >= _DROPOUT
        return mean * kept.to(mean.dtype) * (1 / (1 - _DROPOUT))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """See `BoxNetwork.features`."""
        return self.forward(x)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In float32 at least: PyTorch takes no means in bfloat16 on CPUs."""
    return x.float() if x.dtype == torch.bfloat16 else x


_NETWORKS = {"rb3d": RB3D, "inception3d": Inception3D, "dsrf3d": DSRF3D}


def build_encoder(encoder: Encoder, *, seed: int = 0) -> BoxNetwork:
    """The network with its first weights; biases are 0.

    Glorot's weights in DSRF3D and Inception3D, as in the authors' programs: with He's, which are
    larger, the learning rate 0.01 of [2]_ is too high.  He's in RB3D, but for the last layer: with
    Glorot's, which take a part of the signal away in each of its many layers, what the hidden
    layer says of two boxes would differ by a few thousandths.

    The same weights for the same seed; PyTorch's own random numbers are left as they were.
    """
    state = torch.random.get_rng_state()  # PyTorch's layers draw weights of their own
    built = _NETWORKS[encoder.network](encoder)
    torch.random.set_rng_state(state)
    generator = torch.Generator().manual_seed(seed)
    for name, values in built.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(values)
        elif encoder.network == "rb3d" and not name.startswith("last."):
            nn.init.kaiming_normal_(values, nonlinearity="relu", generator=generator)
        else:
            nn.init.xavier_uniform_(values, generator=generator)
    return built


def network(name: EncoderName, box: int, outputs: int, *, seed: int = 0) -> BoxNetwork:
    """The network of a name, for boxes of an edge, with so many outputs.

    Raises
    ------
    InputError
        If there is no such network, or the box is not of 24 to 48 voxels.
    """
    return build_encoder(Encoder(name, box, outputs), seed=seed)
