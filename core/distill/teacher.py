"""Teachers: denoisers that a student learns from and that do not become part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from core.denoiser import DenoiserLike


class Teacher:
    """A frozen denoiser, fetched when it is first asked for.

    It is no module, so a student that holds it neither saves, averages nor trains it, and a finished student can be
    loaded and sampled where its teacher is not at hand.
    """

    def __init__(self, fetch: Callable[[], DenoiserLike]) -> None:
        """fetch: makes the denoiser or reads it from its checkpoint."""
        self._fetch = fetch
        self._found: DenoiserLike | None = None

    def __call__(self, like: Tensor) -> DenoiserLike:
        """The denoiser, on the device of ``like``."""
        if self._found is None:
            self._found = self._fetch()
        if isinstance(self._found, nn.Module):
            self._found.eval().requires_grad_(False).to(like.device)
        return self._found


def load_partial(student: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let a student begin with its teacher's weights; what the teacher does not have stays as it is.

    Raises ValueError where the teacher has a tensor that the student lacks, or has in another shape.
    """
    own = student.state_dict()
    strange = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    if strange:
        raise ValueError(
            f"the student cannot begin as its teacher: {strange[0]} and {len(strange) - 1} more tensors do not fit; "
            "give both the same sizes"
        )
    student.load_state_dict({**own, **state})
