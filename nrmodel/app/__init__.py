"""A page to try it in a browser: what a press of its button computes (`press`), how that is shown (`shown`), the
example that it opens with, and its layout with gradio (`page`), which alone needs the extra `app`."""
