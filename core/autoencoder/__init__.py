"""Autoencoders: from data to a small latent space, in which diffusion costs less, and back (2112.10752)."""

from core.autoencoder.kl import DiagonalGaussian, KLAutoencoder
from core.autoencoder.net import Plan
from core.autoencoder.vq import Quantized, VQAutoencoder

__all__ = ["DiagonalGaussian", "KLAutoencoder", "Plan", "Quantized", "VQAutoencoder"]
