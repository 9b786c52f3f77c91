"""Checks of samplers against closed forms: mixtures of Gaussians, orders of convergence."""
