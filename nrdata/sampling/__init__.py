"""From a data set to training batches: the stream, the laws of the reference, torch's loader.

`nrdata.sampling.references` is the stage for stock webdataset pipelines; the laws themselves are `sampling.laws`.
"""

from nrdata.sampling.stage import references

__all__ = ["references"]
