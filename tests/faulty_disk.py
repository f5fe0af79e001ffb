"""A disk that fails: takes the place of `files.disk`, through which everything is written."""

import errno
import os

from lopbench import files


class FaultyDisk:
    """A disk whose n-th operation, counted from 0, fails, and with `for_good` every one after it; notes their names.

    `most`: how many bytes a write takes at most. `halved`: the number of a write that takes one half of its bytes.
    An operation that fails has done nothing, but for `close`. Nothing is forced to disk: no test cuts the power.
    """

    def __init__(self, n=None, error=errno.ENOSPC, for_good=False, most=None, halved=None):
        self.n, self.error, self.for_good, self.most, self.halved = n, error, for_good, most, halved
        self.names = []

    def __getattr__(self, name):
        def operation(*arguments):
            number = len(self.names)
            self.names.append(name)
            if name == "write":
                file, data = arguments
                arguments = (file, data[: len(data) // 2 if number == self.halved else self.most])
            failing = self.n is not None and (number >= self.n if self.for_good else number == self.n)
            result = None
            if name != "sync" and (not failing or name == "close"):
                result = getattr(files.Disk(), name)(*arguments)
            if failing:
                raise OSError(self.error, os.strerror(self.error))
            return result

        return operation
