"""From a data set to training batches: the stream, the laws of the reference, torch's loader.

`nrdata.sampling.references` is the stage for stock webdataset pipelines. It takes the attribute of the module of that
name, which holds the laws; `from nrdata.sampling.references import ...` still reaches the module.
"""

from nrdata.sampling.stage import references

__all__ = ["references"]
