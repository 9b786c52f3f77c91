"""Distillation: students that do in one pass, or in few steps, what their teacher needs many for.

Each method is an objective: it takes the place of ``core.objective.Objective`` in a ``Diffusion``, and the one training
loop does the rest. A teacher is frozen; it is neither saved, averaged nor trained with its student.
"""

from core.distill.guidance import GuidanceDistillation, embed_guidance
from core.distill.teacher import Teacher, load_partial

__all__ = ["GuidanceDistillation", "Teacher", "embed_guidance", "load_partial"]
