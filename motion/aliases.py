"""What was renamed in files of motion's models; see ``core.aliases``."""

from __future__ import annotations

from core.aliases import Aliases, TensorAlias

ALIASES = Aliases(
    tensors=(
        TensorAlias(2, "motion.matcher.Matcher", "heat", "logit_scale"),
        TensorAlias(2, "motion.matcher.Matcher", "read", "proj_in"),
        TensorAlias(2, "motion.nn.mdm.MDM", "read", "proj_in"),
        TensorAlias(2, "motion.nn.mdm.MDM", "say", "proj_out"),
        TensorAlias(2, "motion.nn.mdm.MDM", "tell", "cond_proj"),
        TensorAlias(2, "motion.nn.motiondiffuse.CaptionEncoder", "read", "proj_in"),
        TensorAlias(2, "motion.nn.motiondiffuse.MotionDiffuse", "read", "proj_in"),
        TensorAlias(2, "motion.nn.motiondiffuse.MotionDiffuse", "say", "proj_out"),
        TensorAlias(2, "motion.nn.motiondiffuse.Restyle", "told", "modulation"),
    )
)
