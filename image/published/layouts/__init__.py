"""Layouts of published networks of pictures."""

from core.weights.layouts import Layout
from image.published.layouts import ncsnpp

NCSNPP = "NCSN++", "score", "variance exploding"
LAYOUTS = (
    Layout("ncsnpp", "diffusers", r"time_proj\.weight", *NCSNPP, load=ncsnpp.load_diffusers),
    Layout("ncsnpp", "original", r"(module\.)?all_modules\.\d+\..*", *NCSNPP),
)
