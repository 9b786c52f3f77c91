"""Codecs: what is diffused in place of the data itself, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.autoencoder import DiagonalGaussian, KLAutoencoder, VQAutoencoder
from core.random import Stream, TrainingRNG


class Codec(nn.Module):
    """Data that is diffused as it is, and the base of all others.

    Encoding has two halves, so that the costly one can be done once and kept: ``moments`` is a function of the data,
    and ``sample`` takes what is diffused from a description.
    """

    @property
    def costly(self) -> bool:
        """Whether describing costs so much that it is done once; never of a codec that is trained with the rest."""
        return False

    def encode(self, data: Tensor, rng: TrainingRNG | None = None) -> Tensor:
        """Data (B, ...) -> what is diffused. A stochastic codec takes its noise from ``rng``, its mode without it."""
        return self.sample(self.moments(data), rng)

    def moments(self, data: Tensor) -> Tensor:
        """All that encoding needs to know of data (B, ...), such as the mean and variance of its latents."""
        return data

    def sample(self, moments: Tensor, rng: TrainingRNG | None = None) -> Tensor:
        """A sample of what is diffused, given the result of ``moments``."""
        return moments

    def decode(self, code: Tensor) -> Tensor:
        """What is diffused -> data."""
        return code


class Standardize(Codec):
    """Zero mean and unit (or another) deviation for each feature.

    mean and deviation broadcast against one sample; ``fit`` measures them.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, unit: float = 1.0) -> None:
        """Raises ValueError where a deviation is not positive."""
        super().__init__()
        if not deviation.is_meta and not bool((deviation > 0).all()):
            raise ValueError("a feature with no spread cannot be standardised: leave it out, or give it deviation 1")
        self.mean = nn.Buffer(mean.clone())
        self.scale = nn.Buffer(unit / deviation)

    @classmethod
    def fit(cls, data: Tensor, dims: tuple[int, ...] = (0,), unit: float = 1.0) -> Standardize:
        """Measure mean and deviation of data (N, ...) over ``dims``; constant features get deviation 1."""
        deviation, mean = torch.std_mean(data, dim=dims, keepdim=True)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return cls(mean[0], deviation[0], unit)

    def moments(self, data: Tensor) -> Tensor:
        return (data - self.mean) * self.scale

    def decode(self, code: Tensor) -> Tensor:
        return code / self.scale + self.mean


class Scale(Codec):
    """``factor (data - shift)``: the scaling factor of a latent space, or EDM's data deviation of 0.5."""

    def __init__(self, factor: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        if factor == 0:
            raise ValueError("a scale of 0 would erase the data: give any other factor")
        self.factor = factor
        self.shift = shift

    def moments(self, data: Tensor) -> Tensor:
        return (data - self.shift) * self.factor

    def decode(self, code: Tensor) -> Tensor:
        return code / self.factor + self.shift


class Pixels(Codec):
    """Bytes (uint8, 0 to 255) as numbers in [-1, 1]; what is already a float is left as it is."""

    def moments(self, data: Tensor) -> Tensor:
        return data if data.is_floating_point() else data.float() / 127.5 - 1

    def decode(self, code: Tensor) -> Tensor:
        return code.clamp(-1, 1)


class Latents(Codec):
    """The code of a frozen autoencoder, ``scale (z - shift)``: what latent diffusion diffuses (2112.10752).

    A KL autoencoder's moments are the mean and log variance of the code, and ``sample`` draws from it.
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder | VQAutoencoder,
        scale: Tensor | float = 1.0,
        shift: Tensor | float = 0.0,
        bands: int = 1,
    ) -> None:
        """scale, shift: numbers, or one a channel (C,); bands: to decode in, see ``KLAutoencoder.decode``."""
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.scale = nn.Buffer(torch.as_tensor(scale, dtype=torch.float32).expand(autoencoder.plan.code).clone())
        self.shift = nn.Buffer(torch.as_tensor(shift, dtype=torch.float32).expand(autoencoder.plan.code).clone())
        self.bands = bands

    @property
    def costly(self) -> bool:
        return not any(weight.requires_grad for weight in self.autoencoder.parameters())

    def train(self, mode: bool = True) -> Latents:
        """Stays as it is: the autoencoder is not trained here."""
        return self

    def measure(self, moments: Tensor) -> None:
        """Set shift and scale so that each channel of what is picked from these descriptions is standard.

        That is mean 0 and deviation 1, with the spread of the posteriors; a channel that says nothing keeps its scale.
        """
        code = self._code(moments, None)
        variance, mean = torch.var_mean(code.transpose(0, 1).flatten(1), dim=1)
        if isinstance(self.autoencoder, KLAutoencoder):
            variance = variance + DiagonalGaussian.of(moments).logvar.exp().transpose(0, 1).flatten(1).mean(1)
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(variance > 0, variance.rsqrt(), torch.ones_like(variance)))

    def moments(self, data: Tensor) -> Tensor:
        if isinstance(self.autoencoder, KLAutoencoder):
            return self.autoencoder.moments(data)
        return self.autoencoder.encode(data)

    def sample(self, moments: Tensor, rng: TrainingRNG | None = None) -> Tensor:
        code = self._code(moments, rng)
        return (code - self._wide(self.shift, code)) * self._wide(self.scale, code)

    def decode(self, code: Tensor) -> Tensor:
        code = code / self._wide(self.scale, code) + self._wide(self.shift, code)
        if isinstance(self.autoencoder, KLAutoencoder):
            return self.autoencoder.decode(code, self.bands)
        return self.autoencoder.decode(code)

    def _code(self, moments: Tensor, rng: TrainingRNG | None) -> Tensor:
        if not isinstance(self.autoencoder, KLAutoencoder):
            return moments
        posterior = DiagonalGaussian.of(moments)
        return posterior.mean if rng is None else posterior.sample(rng.normal(posterior.mean, Stream.CODEC))

    def _wide(self, value: Tensor, like: Tensor) -> Tensor:
        return value.to(like).view(-1, *[1] * (like.ndim - 2))


class Chain(Codec):
    """Codecs one after the other; the moments are those of the first."""

    def __init__(self, *codecs: Codec) -> None:
        super().__init__()
        self.codecs = nn.ModuleList(codecs)

    def _parts(self) -> list[Codec]:
        return [codec for codec in self.codecs if isinstance(codec, Codec)]

    @property
    def costly(self) -> bool:
        return any(codec.costly for codec in self._parts()[:1])

    def moments(self, data: Tensor) -> Tensor:
        parts = self._parts()
        return parts[0].moments(data) if parts else data

    def sample(self, moments: Tensor, rng: TrainingRNG | None = None) -> Tensor:
        parts = self._parts()
        code = parts[0].sample(moments, rng) if parts else moments
        for codec in parts[1:]:
            code = codec.encode(code, rng)
        return code

    def decode(self, code: Tensor) -> Tensor:
        for codec in reversed(self._parts()):
            code = codec.decode(code)
        return code
