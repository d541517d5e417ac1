"""Sources in, shards out: a module a source (`plan`, `sources`), and what they share.

`nrdata.builders.voices` are talkers from nothing, for tests and demonstrations of other people too.
"""

from nrdata.builders.synthesis import voices

__all__ = ["voices"]
