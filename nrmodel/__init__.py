"""Sound and a noise reference in, enhanced sound out: a conditioned SGMSE+."""


def load(path):
    """Load a model (see `nrmodel.model.load`)."""
    from nrmodel.model import load as load_model

    return load_model(path)
