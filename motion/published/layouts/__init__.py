"""Layouts of published networks of motion."""

from core.weights.layouts import Layout

MOTIONDIFFUSE = r"temporal_decoder_blocks\.0\.sa_block\.norm\.weight"
LAYOUTS = (
    Layout("mdm", "original", r"input_process\.poseEmbedding\.weight", "MDM", "x0"),
    Layout("motiondiffuse", "original", MOTIONDIFFUSE, "MotionDiffuse", "epsilon", "linear table of 1000"),
)
