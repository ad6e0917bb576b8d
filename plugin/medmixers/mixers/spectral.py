import torch
from torch import Tensor, nn

from medmixers.layers.conv import check_positive, check_spatial_dims
from medmixers.layers.precision import without_autocast


class Spectral(nn.Module):
    """Global filter in the frequency domain (GFNet, Rao et al. 2021), for maps of any size.

    The Fourier transform of each channel is multiplied by a learned complex filter. This is a circular convolution with
    a kernel as large as the map, at a cost of tokens times their logarithm. GFNet learns one number per frequency of
    one map size, and interpolates the filter for other sizes. Here the filter is learned on a fixed grid of
    frequencies, and linear interpolation gives it for every size. The interpolation fades the kernel out: 98 % of its
    energy lies within 2 (frequencies - 1) voxels. It starts at random with the standard deviation of GFNet, 0.02.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
        frequencies: points of the grid from 0 to the highest frequency of an axis, at least 2. More of them reach
            further and cost 4 C f^2 parameters in 2D, 8 C f^3 in 3D, about.
    """

    def __init__(self, dim: int, *, spatial_dims: int, frequencies: int = 8) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive(**{"frequencies - 1": frequencies - 1})
        # All axes have negative frequencies but the last: the transform of real numbers is symmetric.
        grid = [2 * frequencies - 1] * (spatial_dims - 1) + [frequencies]
        self.filter = nn.Parameter(0.02 * torch.randn(2, dim, *grid))  # real and imaginary part

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        if x.shape[0] == 0:  # torch's transform refuses an empty batch
            return x.clone()
        if torch.jit.is_scripting():
            return self._filtered(x)
        with without_autocast(x):
            return self._filtered(x)

    def _filtered(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)  # a CPU has no transform of half precision
        axes, size = list(range(2, x.ndim)), list(x.shape[2:])
        real, imaginary = self._filter_for(size, dtype).unbind(0)
        spectrum = torch.fft.rfftn(x.to(dtype), dim=axes) * torch.complex(real, imaginary)
        return torch.fft.irfftn(spectrum, s=size, dim=axes).to(x.dtype)

    def _filter_for(self, size: list[int], dtype: torch.dtype) -> Tensor:
        """The filter at the frequencies of a map, (2, C, *frequencies of rfftn)."""
        values, highest = self.filter.to(dtype), self.filter.shape[-1] - 1
        for axis, count in enumerate(size):
            # Cycles per map, in the order of rfftfreq and fftfreq. Those fix the size of an exported graph.
            cycles = torch.arange(count, device=values.device)
            if axis == len(size) - 1:
                cycles = cycles[: count // 2 + 1]
                place = cycles.to(dtype) * (2 * highest / count)
            else:
                cycles = (cycles + count // 2) % count - count // 2
                place = cycles.to(dtype) * (2 * highest / count) + highest
            points = torch.arange(self.filter.shape[2 + axis], device=values.device)
            near = (1 - (place.unsqueeze(1) - points).abs()).clamp(min=0)
            values = torch.matmul(values.movedim(2 + axis, -1), near.T).movedim(-1, 2 + axis)
        return values
